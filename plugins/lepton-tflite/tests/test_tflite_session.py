"""Sessions: threads, types, errors; and files that are somebody else's or damaged."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from lepton_core.errors import SessionError, SourceError
from lepton_core.types import CheckRequest, InspectRequest, Model
from lepton_tflite import _flatbuffer as flat
from lepton_tflite import bundle_runtime, plugin
from lepton_tflite._border import into_file

pytestmark = pytest.mark.xdist_group("tflite")


def test_facts_say_what_runs_where(single, opened):
    facts = opened(single.model, threads=1).facts
    assert facts["runtime_version"].startswith("2.")
    assert facts["threads"] == 1
    assert facts["storage_precision"] == "fp32"
    assert facts["execution_layers"] == {"fp32": sum(facts["execution_layers"].values())}
    delegate = facts["delegate"]
    assert delegate["name"] == "XNNPACK"
    assert 0 < delegate["operators"] < delegate["of"]
    assert opened(single.model, options={"xnnpack": False}).facts["delegate"] == {}
    for off in ("false", "off", 0):
        assert opened(single.model, options={"xnnpack": off}).facts["delegate"] == {}
    assert opened(single.model, reference=True).facts["delegate"] == {}


def test_the_batch_may_change_from_call_to_call_in_any_thread(single, opened, graphs):
    session = opened(single.model)
    wanted = {n: session.run(graphs.inputs(n, seed=n)) for n in (1, 2, 5)}
    wrong = []

    def work(rows):
        for _ in range(10):
            found = session.run(graphs.inputs(rows, seed=rows))
            if not np.array_equal(found["scores"], wanted[rows]["scores"]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(n,)) for n in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_outputs_belong_to_the_caller(single, opened, graphs):
    session = opened(single.model)
    first = session.run(graphs.inputs(2))["scores"]
    kept = first.copy()
    session.run(graphs.inputs(2, seed=9))
    np.testing.assert_array_equal(first, kept)


def test_integers_beyond_32_bits_are_refused(single, opened, graphs):
    inputs = {**graphs.inputs(2), "kind": np.array([1, 2**40])}
    with pytest.raises(SessionError) as caught:
        opened(single.model).run(inputs)
    assert caught.value.code == "LPT-RUN-405"
    assert str(2**40) in caught.value.message


NONE = {"scales": np.array([], "f4"), "zero_points": np.array([], "i4")}
GRID = {"scales": np.array([0.5], "f4"), "zero_points": np.array([3])}


@pytest.mark.parametrize(
    ("given", "dtype", "numbers", "wanted"),
    [
        (np.array([np.nan, 1], "f4"), "i1", GRID, None),
        (np.array([np.inf, 1], "f4"), "i1", GRID, None),
        (np.array([0.5, 1e9], "f4"), "i1", GRID, [4, 127]),
        (np.array([np.nan, np.inf, 1], "f4"), "f4", NONE, [np.nan, np.inf, 1]),
        (np.array([2**40]), "i4", NONE, None),
        (np.array([7, -7]), "i4", NONE, [7, -7]),
        (np.array([True, False]), "?", NONE, [True, False]),
    ],
)
def test_a_session_and_a_bundle_bring_the_same_into_the_file(given, dtype, numbers, wanted):
    details = {"name": "x", "dtype": np.dtype(dtype).type, "quantization_parameters": numbers}
    if wanted is None:
        with pytest.raises(SessionError) as caught:
            into_file("x", given, details)
        assert caught.value.code in ("LPT-RUN-405", "LPT-RUN-414")
        with pytest.raises(ValueError, match="'x'"):
            bundle_runtime._into_file(given, details)
        return
    for found in (into_file("x", given, details), bundle_runtime._into_file(given, details)):
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, np.asarray(wanted, dtype))


def test_no_rows_and_a_closed_session_are_said(single, opened, graphs):
    session = opened(single.model)
    with pytest.raises(SessionError) as caught:
        session.run(graphs.inputs(0))
    assert caught.value.code == "LPT-RUN-408"
    session.close()
    with pytest.raises(SessionError) as caught:
        session.run(graphs.inputs(1))
    assert caught.value.code == "LPT-RUN-407"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"device": "gpu"}, "LPT-RUN-409"),
        ({"options": {"speed": 1}}, "LPT-RUN-410"),
        ({"threads": 0}, "LPT-RUN-411"),
        ({"options": {"io": "uint8"}}, "LPT-RUN-413"),
        ({"options": {"io": "int8"}}, "LPT-RUN-413"),
        ({"options": {"xnnpack": "maybe"}}, "LPT-RUN-413"),
        ({"options": {"xnnpack": 2}}, "LPT-RUN-413"),
    ],
)
def test_what_cannot_be_asked_for(single, opened, wanted, code):
    with pytest.raises(SessionError) as caught:
        opened(single.model, **wanted)
    assert caught.value.code == code
    assert caught.value.remedy


def test_files_for_phones_open_here(single, opened, graphs):
    opened(single.model, device="android-arm64").run(graphs.inputs(1))


def test_a_call_that_fails_does_not_spoil_the_next(single, opened, tmp_path, graphs):
    built = flat.unpack(Path(single.model.path).read_bytes())
    built.metadata = None  # nothing says that the image has 8 rows of pixels
    graph = built.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 1, -1, 8], np.int32)
    path = tmp_path / "loose.tflite"
    path.write_bytes(flat.pack(built))
    good = graphs.inputs(2)
    good["kind"] = good["kind"].astype("i4")
    session = opened(Model("tflite", str(path)))
    wanted = session.run(good)["scores"]
    for wrong in ({"image": np.ones((2, 1, 7, 8), "f4")}, {"kind": np.array([9, 9], "i4")}):
        with pytest.raises(SessionError) as caught:
            session.run({**good, **wrong})
        assert caught.value.code == "LPT-RUN-406"
        np.testing.assert_array_equal(session.run(good)["scores"], wanted)


# --- files of somebody else's, and damaged ones -----------------------------------------------


@pytest.mark.parametrize("place", ["port", "tensor", "bare"])
def test_names_that_are_no_text_are_said(single, opened, tmp_path, place):
    built = flat.unpack(Path(single.model.path).read_bytes())
    if place == "port":
        built.signatureDefs[0].inputs[0].name = b"\xff\xfe"
    elif place == "tensor":
        for tensor in built.subgraphs[0].tensors:
            tensor.name = b"\xff\xfe"
    else:
        built.signatureDefs = None
        built.subgraphs[0].tensors[built.subgraphs[0].inputs[0]].name = b"\xff\xfe"
    path = tmp_path / "names.tflite"
    path.write_bytes(flat.pack(built))
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code in ("LPT-RUN-402", "LPT-RUN-412")


@pytest.mark.parametrize("keep", [0, 3, 20, 500, -4])
def test_a_truncated_file_is_refused(single, opened, tmp_path, keep):
    path = tmp_path / "cut.tflite"
    path.write_bytes(Path(single.model.path).read_bytes()[:keep])
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code in ("LPT-RUN-402", "LPT-RUN-412")
    assert caught.value.remedy


def test_a_file_of_another_kind_is_refused(opened, tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(b"\x10\x00\x00\x00ARKX" + bytes(100))
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code == "LPT-RUN-402"
    with pytest.raises(SourceError) as caught:
        plugin.lepton_inspect(Model("tflite", str(path)), InspectRequest(), None)
    assert caught.value.code == "LPT-SRC-401"
    with pytest.raises(SessionError):
        opened(Model("tflite", str(tmp_path / "none.tflite")))


@pytest.mark.parametrize("name", ["FlexErf", "AcmeOperator"])
def test_custom_and_flex_operators_are_named(single, opened, tmp_path, name):
    built = flat.unpack(Path(single.model.path).read_bytes())
    code = built.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name.encode()
    path = tmp_path / "custom.tflite"
    path.write_bytes(flat.pack(built))
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code == "LPT-RUN-403"
    assert name in caught.value.cause
    assert ("Flex" in caught.value.message) == name.startswith("Flex")


@pytest.mark.parametrize("api", ["interpreter", "compiled"])
def test_a_file_of_a_newer_version_is_named_before_it_is_opened(handmade, opened, tmp_path, api):
    built = flat.unpack(handmade.int8_net())
    built.operatorCodes[0].version = 99
    path = tmp_path / "newer.tflite"
    path.write_bytes(flat.pack(built))
    source = Model("tflite", str(path))
    found = plugin.lepton_inspect(source, InspectRequest(), None)
    said = plugin.lepton_check(found.model, CheckRequest("tflite", found), None)
    assert said.verdict == "impossible"
    assert "'FULLY_CONNECTED' version '99'" in said.reasons[0]
    with pytest.raises(SessionError) as caught:
        opened(source, options={"api": api})
    assert caught.value.code == "LPT-RUN-412"
    assert "'FULLY_CONNECTED' version '99'" in caught.value.cause


def test_a_file_without_our_notes_is_read_by_its_own_signature(single, opened, tmp_path, graphs):
    built = flat.unpack(Path(single.model.path).read_bytes())
    built.metadata = None
    path = tmp_path / "plain.tflite"
    path.write_bytes(flat.pack(built))
    source = Model("tflite", str(path))
    found = plugin.lepton_inspect(source, InspectRequest(), None)
    assert [str(s) for s in found.model.signature.inputs] == [
        "image: float32[batch, 1, 8, 8]",
        "kind: int32[batch]",
    ]
    assert found.domain == "tflite"
    assert {use.name for use in found.operators} >= {
        "tflite.FULLY_CONNECTED",
        "tflite.MAX_POOL_2D",
    }
    inputs = graphs.inputs(3)
    ours = opened(single.model).run(inputs)
    inputs["kind"] = inputs["kind"].astype("i4")
    theirs = opened(source).run(inputs)
    np.testing.assert_array_equal(ours["scores"], theirs["scores"])


def test_a_file_without_a_signature_is_read_by_its_tensors(single, opened, tmp_path, graphs):
    built = flat.unpack(Path(single.model.path).read_bytes())
    built.metadata = built.signatureDefs = None
    path = tmp_path / "bare.tflite"
    path.write_bytes(flat.pack(built))
    session = opened(Model("tflite", str(path)))
    assert [s.name for s in session.signature.inputs] == ["image", "kind"]
    inputs = graphs.inputs(2)
    inputs["kind"] = inputs["kind"].astype("i4")
    assert session.run(inputs)["scores"].shape == (2, 5)


def test_several_signatures_are_refused(single, opened, tmp_path):
    built = flat.unpack(Path(single.model.path).read_bytes())
    other = copy.deepcopy(built.signatureDefs[0])
    other.signatureKey = b"other"
    built.signatureDefs.append(other)
    path = tmp_path / "two.tflite"
    path.write_bytes(flat.pack(built))
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code == "LPT-RUN-404"
    assert "serving_default, other" in caught.value.cause


def test_damaged_notes_are_said(single, opened, tmp_path):
    built = flat.unpack(Path(single.model.path).read_bytes())
    flat.set_notes(built, {"signature": {"inputs": 3}})
    path = tmp_path / "notes.tflite"
    path.write_bytes(flat.pack(built))
    with pytest.raises(SessionError) as caught:
        opened(Model("tflite", str(path)))
    assert caught.value.code == "LPT-RUN-402"
    assert "noted" in caught.value.cause


WITHOUT = """
import sys
from pathlib import Path
sys.modules["ai_edge_litert"] = None
from lepton_core.context import Context
from lepton_core.errors import PluginDependencyError
from lepton_core.types import ConvertRequest, InspectRequest, Model, OpenRequest
from lepton_tflite import plugin
context, file = Context(Path(".")), Model("tflite", "model.tflite")
for call in (
    lambda: plugin.lepton_open(file, OpenRequest("tflite"), context),
    lambda: plugin.lepton_inspect(file, InspectRequest(), context),
    lambda: plugin.lepton_convert(Model("pivot", "p.onnx"), ConvertRequest("tflite"), context),
):
    try:
        call()
    except PluginDependencyError as error:
        print(error.code)
"""


def test_without_the_runtime_its_package_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == 3 * ["LPT-RUN-401"]
