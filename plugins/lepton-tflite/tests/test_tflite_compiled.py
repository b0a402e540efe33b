"""The two interfaces of LiteRT give the same: names, sizes, integers, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_core.codec import to_data
from lepton_core.errors import SessionError
from lepton_core.types import Model, Signature, TensorSpec
from lepton_tflite import _compiled, _wanted
from lepton_tflite import _flatbuffer as flat

pytestmark = pytest.mark.xdist_group("tflite")

COMPILED = {"api": "compiled"}


@pytest.fixture
def int8_file(handmade, tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(handmade.int8_net())
    return Model("tflite", str(path))


@pytest.mark.parametrize("more", [{}, {"xnnpack": False}], ids=["xnnpack", "own kernels"])
def test_both_give_the_same_numbers_for_any_batch(single, opened, graphs, more):
    one = opened(single.model, threads=1, options=more)
    two = opened(single.model, threads=1, options={**COMPILED, **more})
    assert str(one.signature) == str(two.signature)
    assert (one.facts["api"], two.facts["api"]) == ("interpreter", "compiled")
    for rows in (1, 5, 2, 2, 7):
        inputs = graphs.inputs(rows, seed=rows)
        wanted, found = one.run(inputs), two.run(inputs)
        assert list(found) == ["scores", "best"]
        for name, array in wanted.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("io", ["float", "int8"])
def test_both_bring_floats_onto_the_borders_grid(int8_file, opened, io):
    one = opened(int8_file, options={"io": io})
    two = opened(int8_file, options={"io": io, **COMPILED})
    assert one.signature == two.signature
    for given, taken in ((one._inputs, two._inputs), (one._outputs, two._outputs)):
        for name, details in given.items():
            theirs = taken[name]["quantization_parameters"]
            for key in ("scales", "zero_points"):
                np.testing.assert_array_equal(details["quantization_parameters"][key], theirs[key])
    x = np.random.default_rng(1).normal(size=(1, 12)).astype("f4")
    inputs = {"x": x if one.signature.inputs[0].dtype == "float32" else (x * 20).astype("i1")}
    wanted, found = one.run(inputs)["y"], two.run(inputs)["y"]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    assert wanted.any()


def test_a_call_that_fails_does_not_spoil_the_next(single, opened, graphs):
    session = opened(single.model, options=COMPILED)
    good = graphs.inputs(2)
    wanted = session.run(good)["scores"]
    with pytest.raises(SessionError) as caught:
        session.run({**good, "kind": np.array([9, 9])})
    assert caught.value.code == "LPT-RUN-406"
    np.testing.assert_array_equal(session.run(good)["scores"], wanted)
    for wrong, code in (
        ({**good, "image": np.ones((2, 1, 7, 8), "f4")}, "LPT-RUN-204"),
        (graphs.inputs(0), "LPT-RUN-408"),
        ({**good, "kind": np.array([2**40, 0])}, "LPT-RUN-405"),
    ):
        with pytest.raises(SessionError) as caught:
            session.run(wrong)
        assert caught.value.code == code
    np.testing.assert_array_equal(session.run(good)["scores"], wanted)
    session.close()
    session.close()
    with pytest.raises(SessionError) as caught:
        session.run(good)
    assert caught.value.code == "LPT-RUN-407"


def test_sizes_that_only_the_runtime_can_refuse(single, opened, graphs, tmp_path):
    built = flat.unpack(Path(single.model.path).read_bytes())
    built.metadata = None  # nothing says that the image has 8 rows of pixels
    graph = built.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 1, -1, 8], np.int32)
    path = tmp_path / "loose.tflite"
    path.write_bytes(flat.pack(built))
    session = opened(Model("tflite", str(path)), options=COMPILED)
    good = graphs.inputs(2)
    good["kind"] = good["kind"].astype("i4")
    wanted = session.run(good)["scores"]
    with pytest.raises(SessionError) as caught:
        session.run({**good, "image": np.ones((2, 1, 7, 8), "f4")})
    assert caught.value.code == "LPT-RUN-406"
    np.testing.assert_array_equal(session.run(good)["scores"], wanted)


def test_a_file_without_a_signature(single, opened, graphs, tmp_path):
    built = flat.unpack(Path(single.model.path).read_bytes())
    built.metadata = built.signatureDefs = None
    path = tmp_path / "bare.tflite"
    path.write_bytes(flat.pack(built))
    session = opened(Model("tflite", str(path)), options=COMPILED)
    inputs = graphs.inputs(2)
    inputs["kind"] = inputs["kind"].astype("i4")
    wanted = opened(single.model).run(graphs.inputs(2))["scores"]
    np.testing.assert_array_equal(session.run(inputs)["scores"], wanted)


def test_rows_are_run_one_by_one_where_the_file_takes_one(handmade, opened, tmp_path):
    built = flat.unpack(handmade.int8_net())
    x = TensorSpec("x", "float32", ("batch", 12))
    signature = Signature((x,), (TensorSpec("y", "float32", ("batch", 5)),))
    flat.set_notes(built, {"batch": "rows", "signature": to_data(signature)})
    path = tmp_path / "rows.tflite"
    path.write_bytes(flat.pack(built))
    model = Model("tflite", str(path))
    inputs = {"x": np.random.default_rng(2).normal(size=(4, 12)).astype("f4")}
    wanted = opened(model).run(inputs)["y"]
    session = opened(model, options=COMPILED)
    assert session.facts["batch"] == "rows"
    assert wanted.shape == (4, 5)
    np.testing.assert_array_equal(session.run(inputs)["y"], wanted)


def test_its_map_says_what_is_not_told(single, int8_file, opened):
    told = opened(single.model).execution_map()
    assert {node.provider for node in told.nodes} == {"XNNPACK", "LiteRT"}
    assert told.notes == ()
    sources = {source for node in told.nodes for source in node.sources}
    assert sources >= {"c", "r", "p", "g", "scores", "best"}, "the pivot's values are found again"
    untold = opened(single.model, options=COMPILED).execution_map()
    assert {node.provider for node in untold.nodes} == {""}
    assert "does not tell" in untold.notes[0]
    plain = opened(single.model, options={**COMPILED, "xnnpack": False}).execution_map()
    assert {node.provider for node in plain.nodes} == {"LiteRT"}
    complete = opened(int8_file, options=COMPILED).execution_map()
    assert {node.provider for node in complete.nodes} == {"XNNPACK"}
    for session in (untold, plain, complete):
        assert {node.device for node in session.nodes} == {"cpu"}


def test_it_says_whether_all_runs_on_an_accelerator(single, int8_file, opened):
    assert opened(int8_file, options=COMPILED).facts["fully_accelerated"] is True
    facts = opened(single.model, threads=3, options=COMPILED).facts
    assert (facts["fully_accelerated"], facts["accelerator"], facts["threads"]) == (False, "cpu", 3)


def test_a_truncated_file_is_refused(single, opened, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(Path(single.model.path).read_bytes()[:-900])
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)), options=COMPILED)
    assert caught.value.code in ("LPT-RUN-402", "LPT-RUN-412")


def test_an_npu_that_is_not_there_is_said_and_not_replaced(single, opened):
    # LiteRT itself would run the file on the CPU.
    with pytest.raises(SessionError) as caught:
        opened(single.model, options={**COMPILED, "accelerator": "npu"})
    assert caught.value.code == "LPT-RUN-415"
    assert "NPU" in caught.value.message


@pytest.mark.parametrize("given", [{"api": "new"}, {"accelerator": "npu"}, {"accelerator": 1}])
def test_what_cannot_be_asked_for(single, opened, given):
    with pytest.raises(SessionError) as caught:
        opened(single.model, options=given)
    assert caught.value.code == "LPT-RUN-413"
    assert caught.value.remedy


def test_types_that_it_does_not_pass_are_named(handmade, opened, tmp_path):
    path = tmp_path / "wide.tflite"
    path.write_bytes(
        handmade.file_of(
            {"x": ("int64", (2,), None, None), "y": ("float32", (2,), None, None)},
            [("CAST", ["x"], ["y"], handmade.options("CastOptions"))], ["x"], ["y"],
        )
    )  # fmt: skip
    model = Model("tflite", str(path))
    x = np.array([1, -(2**20)])
    np.testing.assert_array_equal(opened(model).run({"x": x})["y"], x.astype("f4"))
    with pytest.raises(SessionError) as caught:
        opened(model, options=COMPILED)
    assert caught.value.code == "LPT-RUN-416"
    assert "'x'" in caught.value.message
    assert "interpreter" in caught.value.remedy


def test_a_runtime_without_it_is_said(monkeypatch, single):
    monkeypatch.setattr(_compiled, "find_module", lambda name: None)
    with pytest.raises(SessionError) as caught:
        _compiled.compile_model(Path(single.model.path), _wanted.Wanted(1))
    assert caught.value.code == "LPT-RUN-415"
    assert "tflite-runtime" in caught.value.cause
