"""From the pivot to a package: numbers, names, bytes, and what is refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_core.context import Context, SilentReporter
from lepton_core.errors import LeptonError
from lepton_core.files import digest_path
from lepton_core.types import ConvertRequest, Model
from lepton_coreml import plugin
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._write import WEIGHTS, feature_names


def error_of(a, b):
    a, b = np.asarray(a, "f8"), np.asarray(b, "f8")
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


@pytest.mark.parametrize("name", ["perceptron", "network", "tokens"])
def test_a_session_gives_what_the_pivot_gives(name, converted, pivots, opened, reference, feeds):
    session = opened(converted(name).model)
    for rows in (1, 3, 7):
        feed = feeds(name, rows)
        made, wanted = session.run(feed), reference(pivots(name), feed)
        assert list(made) == list(wanted)
        for key, array in wanted.items():
            assert made[key].dtype == array.dtype
            if array.dtype.kind == "f":
                assert error_of(made[key], array) < 1e-6
            else:
                np.testing.assert_array_equal(made[key], array)


def test_float16_is_stored_and_rounded(converted, opened, pivots, reference, feeds):
    result = converted("network", "fp16")
    session = opened(result.model)
    assert session.facts["storage_precision"] == "fp16"
    assert session.facts["execution_precision"].startswith("fp16 (")
    feed = feeds("network")
    error = error_of(session.run(feed)["logits"], reference(pivots("network"), feed)["logits"])
    assert 1e-6 < error < 5e-3
    whole = opened(converted("network").model)
    sizes = [sum(f.stat().st_size for f in Path(m.path).rglob("*.bin"))
             for m in (result.model, converted("network").model)]  # fmt: skip
    assert sizes[0] < sizes[1]
    assert whole.facts["storage_precision"] == "fp32"


def test_every_operator_is_told_by_the_graphs_name_before_it_is_translated(pivots, context):
    """So that the error of a crash can name it."""
    said = []
    told = SilentReporter()
    told.about_to = lambda *word: said.append(word)
    plugin.lepton_convert(
        pivots("network"), ConvertRequest("coreml"), replace(context, reporter=told)
    )
    operators = [(operator, where) for _, operator, where, _ in said if operator]
    for kind, name in (("Conv", "d"), ("MaxPool", "p"), ("Gemm", "logits"), ("Softmax", "share")):
        assert (kind, f"node {name!r}") in operators
    steps = list(dict.fromkeys(step for step, *_ in said))
    assert steps == [
        "translating the graph to torch",
        "translating the program with coremltools",
        "running the package",
    ]


def test_kept_operators_stay_float32(pivots, context, opened):
    request = ConvertRequest("coreml", precision="fp16", options={"keep": ["conv"]})
    result = plugin.lepton_convert(pivots("network"), request, context)
    program = open_package(Path(result.model.path)).program()
    kinds = {op.kind: op.outputs[0][1].dtype for op in program.block.operations}
    assert kinds["conv"] == "fp32"
    assert kinds["linear"] == "fp16"
    assert len(result.facts["kept_in_fp32"]) == 2


def test_an_operator_that_is_never_float16_may_be_kept(pivots, context):
    request = ConvertRequest("coreml", precision="fp16", options={"keep": ["cast"]})
    plugin.lepton_convert(pivots("tokens"), request, context)


def test_weights_beyond_the_range_of_float16_stay_float32(graphs, tmp_path, opened):
    rng = np.random.default_rng(0)
    wide = (rng.normal(size=(8, 4)) * 1e5).astype("f4")
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", 8])],
        [graphs.value("y", ["n", 4])],
        [graphs.weight("w", wide)],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "wide")
    result = plugin.lepton_convert(
        pivot, ConvertRequest("coreml", precision="fp16"), Context(tmp_path)
    )
    x = rng.normal(size=(2, 8)).astype("f4")
    assert result.facts["kept_in_fp32"]
    assert error_of(opened(result.model).run({"x": x})["y"], x @ wide) < 1e-5


def test_the_same_pivot_gives_the_same_bytes(pivots, converted, tmp_path):
    first = converted("network").model
    for name in ("tokens", "network"):  # another one in between
        folder = tmp_path / name
        folder.mkdir()
        again = plugin.lepton_convert(pivots(name), ConvertRequest("coreml"), Context(folder))
    assert again.model.digest == first.digest
    for path in sorted(Path(first.path).rglob("*")):
        if path.is_file():
            assert (
                path.read_bytes()
                == (Path(again.model.path) / path.relative_to(first.path)).read_bytes()
            )


def test_names_and_bounds_stand_in_the_package(converted):
    result = converted("network")
    program = open_package(Path(result.model.path)).program()
    assert [f.name for f in program.inputs] == ["in_image"]
    assert [f.name for f in program.outputs] == ["logits", "share"]
    assert program.inputs[0].shape == ((1, 64), 3, 8, 8)
    assert program.version == 9
    assert result.facts["symbols"] == {"batch": [1, 64]}
    assert [s.name for s in result.model.signature.inputs] == ["in.image"]
    older = converted("network", device="ios17")
    assert open_package(Path(older.model.path)).program().version == 8


def test_names_are_made_fit_for_swift_without_clashes():
    assert feature_names(["a.b", "a_b", "1x", "ok"]) == ["a_b", "a_b_2", "_1x", "ok"]


def test_every_weight_is_found_again(converted):
    for precision in ("fp32", "fp16"):
        record = converted("network", precision).facts["weights"]
        assert record["constants"] == record["found"] > 0
        assert record["derived"] == []


def test_a_changed_weight_is_not_found(converted, pivots):
    from lepton_coreml._prove import constants_record
    from lepton_onnx import pivot

    proto = pivot.load(pivots("network").path)
    stem = next(t for t in proto.graph.initializer if t.name == "stem.weight")
    array = np.frombuffer(stem.raw_data, "f4").copy()
    array[5] = np.nextafter(array[5], np.float32(9))
    stem.raw_data = array.tobytes()
    record = constants_record(Path(converted("network").model.path), proto, half=False)
    assert record["found"] == record["constants"] - 1
    assert len(record["derived"]) == 1


def test_the_digest_of_the_weights_is_recorded(converted):
    model = converted("network").model
    assert model.metadata["weights_sha256"] == digest_path(Path(model.path) / WEIGHTS)
    assert model.metadata["proof"] == "graph, not device"


def test_the_proof_is_called_what_it_is(converted, opened):
    result = converted("perceptron")
    assert any("not device proof" in text for text in result.warnings)
    assert opened(result.model).facts["proof"] == "graph proof, not device proof"


def test_static_shapes_on_request(pivots, context, opened):
    request = ConvertRequest("coreml", dynamic_batch=False)
    result = plugin.lepton_convert(pivots("perceptron"), request, context)
    assert open_package(Path(result.model.path)).program().inputs[0].shape == (1, 8)


def test_another_bound_on_request(pivots, context, opened):
    request = ConvertRequest("coreml", options={"max_batch": 4})
    result = plugin.lepton_convert(pivots("perceptron"), request, context)
    session = opened(result.model)
    session.run({"x": np.zeros((4, 8), "f4")})
    with pytest.raises(LeptonError) as caught:
        session.run({"x": np.zeros((5, 8), "f4")})
    assert caught.value.code == "LPT-RUN-508"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"precision": "int8"}, "LPT-CONV-501"),
        ({"precision": "fp16", "recipe": "r.json"}, "LPT-CONV-502"),
        ({"options": {"quick": 1}}, "LPT-CONV-503"),
        ({"options": {"max_batch": 0}}, "LPT-CONV-503"),
        ({"options": {"max_batch": True}}, "LPT-CONV-503"),
        ({"options": {"keep": ["softmax"]}}, "LPT-CONV-503"),
        ({"precision": "int8", "recipe": "r.json", "options": {"keep": ["a"]}}, "LPT-CONV-503"),
        ({"precision": "fp16", "options": {"keep": ["sofmax"]}}, "LPT-CONV-503"),
        ({"device": "ios99"}, "LPT-CONV-503"),
    ],
)
def test_what_is_not_done_is_refused(changes, code, pivots, context):
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivots("perceptron"), ConvertRequest("coreml", **changes), context)
    assert caught.value.code == code
    assert list(context.workdir.iterdir()) == []


def test_strings_are_refused(graphs, tmp_path, context):
    from onnx import TensorProto

    proto = graphs.model(
        [graphs.node("Identity", ["x"], ["y"])],
        [graphs.value("x", ["n"], TensorProto.STRING)],
        [graphs.value("y", ["n"], TensorProto.STRING)],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "text")
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("coreml"), context)
    assert caught.value.code == "LPT-CONV-507"


def test_an_operator_without_translation_is_named(graphs, tmp_path, context):
    """Complex determinants have none in coremltools, and nothing is left behind."""
    proto = graphs.model(
        [graphs.node("Det", ["x"], ["y"])],
        [graphs.value("x", ["n", 3, 3])],
        [graphs.value("y", ["n"])],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "det")
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("coreml"), context)
    assert caught.value.code == "LPT-CONV-504"
    assert "det" in caught.value.details["operator"]
    assert list(context.workdir.iterdir()) == []


def test_activations_of_four_bits_are_refused_and_not_clamped_at_eight(graphs, tmp_path, context):
    from onnx import TensorProto, helper

    proto = graphs.model(
        [
            graphs.node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            graphs.node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [graphs.value("x", ["n", 4])],
        [graphs.value("y", ["n", 4])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
            helper.make_tensor("z", TensorProto.INT4, [], [0]),
        ],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "four")
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("coreml"), context)
    assert caught.value.code == "LPT-CONV-112"
    assert "8 bits" in str(caught.value)


def test_nothing_is_printed(pivots, context, capfd):
    plugin.lepton_convert(pivots("perceptron"), ConvertRequest("coreml"), context)
    assert capfd.readouterr() == ("", "")


def test_no_package_is_left_in_the_temporary_folder(pivots, context, tmp_path, monkeypatch):
    """coremltools takes its own away when the interpreter ends in order, and workers are killed."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    made = plugin.lepton_convert(pivots("perceptron"), ConvertRequest("coreml"), context)
    assert not list(place.iterdir())
    assert [path.name for path in context.workdir.iterdir()] == [Path(made.model.path).name]


def test_the_manifest_names_both_parts(converted):
    folder = Path(converted("perceptron").model.path)
    manifest = json.loads((folder / "Manifest.json").read_text())
    paths = {entry["path"] for entry in manifest["itemInfoEntries"].values()}
    assert paths == {"com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"}


def test_check_judges_without_converting():
    from lepton_core.types import CheckRequest, InspectResult, OperatorUse

    source = Model("onnx", "model.onnx")

    def judge(name, domain="onnx"):
        found = InspectResult(source, operators=(OperatorUse(name, 1),), domain=domain)
        return plugin.lepton_check(source, CheckRequest("coreml", inspection=found), None)

    assert judge("ai.onnx::Conv").verdict == "fits"
    refused = judge("ai.onnx::Loop")
    assert refused.verdict == "impossible"
    assert "Loop" in refused.reasons[0]
    assert judge("aten.relu.default", "aten").verdict == "fits"
    assert "cond (1 times)" in judge("cond", "aten").reasons[0]


def test_every_option_of_a_conversion_is_declared():
    from lepton_coreml._convert import _OPTIONS
    from lepton_coreml.info import INFO

    (edge,) = INFO.edges
    assert set(edge.options) == set(_OPTIONS)
