"""From the pivot to the IR: names, storage, bytes, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.artifacts import artifact_files
from lepton_core.context import Context
from lepton_core.errors import ConversionError, SourceError, UnsupportedOperationError
from lepton_core.files import digest_path
from lepton_core.types import ConvertRequest, Model
from lepton_openvino import plugin
from lepton_openvino._telemetry import openvino


@pytest.mark.xdist_group("openvino-networks")
def test_the_signature_is_the_pivots(networks, convert):
    for name in ("digits", "tokens"):
        pivot = networks(name).pivot
        made = convert(pivot, name=name).model
        assert made.signature == pivot.signature
        assert made.signature.inputs[0].shape[0] == "batch"
        network = openvino().Core().read_model(made.path)
        for specs, ports in (
            (pivot.signature.inputs, network.inputs),
            (pivot.signature.outputs, network.outputs),
        ):
            assert [s.name for s in specs] == [p.get_any_name() for p in ports]
            for spec, port in zip(specs, ports, strict=True):
                assert np.dtype(spec.dtype) == port.get_element_type().to_dtype()
                symbolic = [not isinstance(dim, int) for dim in spec.shape]
                assert len(symbolic) == len(port.get_partial_shape())


def test_unused_inputs_and_outputs_that_are_inputs_keep_their_places(
    graphs, to_pivot, convert, opened
):
    proto = graphs.model(
        [
            graphs.node("Identity", ["x"], ["same"]),
            graphs.node("Relu", ["x"], ["r"]),
            graphs.node("Identity", ["r"], ["again"]),
            graphs.node("Not", ["flag"], ["other"]),
        ],
        [
            graphs.value("x", [2, 3]),
            graphs.value("unused", [4]),
            graphs.value("flag", ["n"], TensorProto.BOOL),
        ],
        [
            graphs.value("again", [2, 3]),
            graphs.value("same", [2, 3]),
            graphs.value("r", [2, 3]),
            graphs.value("other", ["n"], TensorProto.BOOL),
        ],
    )
    made = convert(to_pivot(proto)).model
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("f4")
    flag = np.array([True, False, True])
    out = opened(made).run({"flag": flag, "unused": np.zeros(4, "f4"), "x": x})
    assert list(out) == ["again", "same", "r", "other"]
    np.testing.assert_array_equal(out["same"], x)
    np.testing.assert_array_equal(out["again"], np.maximum(x, 0))
    np.testing.assert_array_equal(out["r"], np.maximum(x, 0))
    np.testing.assert_array_equal(out["other"], ~flag)


def test_fp32_stores_exactly_the_weights_and_fp16_their_rounded_values(graphs, to_pivot, convert):
    pivot = to_pivot(graphs.mlp())
    wanted = dict(np.load(_weights(pivot.path)))
    single, half = convert(pivot), convert(pivot, "fp16")
    assert single.facts["storage_precision"] == "fp32"
    assert half.facts["storage_precision"] == "fp16"
    assert single.facts["stored_values"]["float32"] >= sum(a.size for a in wanted.values())
    assert "float32" not in half.facts["stored_values"]
    found = _constants(single.model.path)
    rounded = _constants(half.model.path)
    for array in wanted.values():
        assert any(np.array_equal(array, f) for f in found)
        assert any(np.array_equal(array.astype("f2"), f) for f in rounded)
    sizes = [Path(m.model.path).with_suffix(".bin").stat().st_size for m in (single, half)]
    assert sizes[1] < 0.6 * sizes[0]


def _weights(path):
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(path)
    out = Path(path).with_suffix(".npz")
    np.savez(out, **{t.name: numpy_helper.to_array(t) for t in proto.graph.initializer})
    return out


def _constants(path):
    network = openvino().Core().read_model(path)
    return [np.array(n.data) for n in network.get_ops() if n.get_type_name() == "Constant"]


def test_only_two_files_are_written_and_the_digest_covers_both(graphs, to_pivot, convert):
    made = convert(to_pivot(graphs.mlp())).model
    folder = Path(made.path).parent
    assert sorted(p.name for p in folder.iterdir()) == ["model.bin", "model.xml"]
    assert [p.name for p in artifact_files(made)] == ["model.xml", "model.bin"]
    assert made.digest == digest_path(made.path)
    notes = ElementTree.parse(made.path).getroot().find("rt_info/lepton")
    assert notes.find("weights").get("value") == digest_path(folder / "model.bin")


def test_values_that_changed_after_a_port_are_not_what_was_proved(graphs, tmp_path, capsys):
    import lepton_core as lepton
    from lepton_core.cli import main as run

    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["batch", 6])],
        [graphs.value("y", ["batch", 6])],
        [graphs.weight("w", np.eye(6, dtype="f4"))],
    )
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    built = lepton.port(
        tmp_path / "net.onnx", targets=["openvino"], out=tmp_path / "out", latency_seconds=0
    )
    graph = Path(built["openvino"].best.model.path)
    assert run(["verify", str(graph)]) == 0
    values = graph.with_name("model.bin")
    values.write_bytes(values.read_bytes()[::-1])
    assert run(["verify", str(graph)]) == 1
    assert "model.bin is not what was proved" in capsys.readouterr().err


@pytest.mark.xdist_group("openvino-networks")
def test_the_graph_tells_no_version_path_or_counter(networks, convert):
    for name in ("digits", "encoder", "lstm", "tokens"):
        made = convert(networks(name).pivot, "fp16", name=f"{name}-half").model
        text = Path(made.path).read_text()
        root = ElementTree.fromstring(text)
        assert [child.tag for child in root.find("rt_info")] == ["lepton"]
        assert "2026." not in text
        assert str(Path(made.path).parent) not in text
        kept = Path(networks(name).pivot.path).read_bytes()
        for layer in root.iter("layer"):
            if re.match(r"[A-Z]\w*_\d+", layer.get("name")):
                assert layer.get("name").encode() in kept


PROGRAM = """
import json, sys
from pathlib import Path
from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model
from lepton_openvino import plugin
digests = []
for index, path in enumerate(sys.argv[2:]):
    folder = Path(sys.argv[1]) / str(index)
    folder.mkdir(parents=True)
    request = ConvertRequest("openvino", precision="fp16" if index % 2 else "fp32")
    made = plugin.lepton_convert(Model("pivot", path), request, Context(folder)).model
    digests.append([made.digest, (folder / "model.bin").read_bytes().hex()[:64]])
print(json.dumps(digests))
"""


@pytest.mark.xdist_group("openvino-networks")
def test_same_pivot_same_bytes_whatever_came_before(networks, run_python, tmp_path):
    """In two processes, and in one after other conversions have moved OpenVINO's counters."""
    paths = [networks(n).pivot.path for n in ("digits", "encoder", "lstm", "tokens")]
    order = [p for path in paths for p in (path, path)]
    once = run_python(PROGRAM, tmp_path / "a", *order)
    again = run_python(PROGRAM, tmp_path / "b", *order[4:], *order, PYTHONHASHSEED="7")
    assert once == again[4:]
    assert once[4:] == again[:4]


def test_lineage_names_parent_and_tools(graphs, to_pivot, convert):
    pivot = to_pivot(graphs.mlp())
    made = convert(pivot, "fp16").model
    step = made.lineage[-1]
    assert made.lineage[:-1] == pivot.lineage
    assert step.parent == pivot.digest
    assert step.request == {"precision": "fp16"}
    assert set(step.tools) == {"openvino", "onnx"}
    assert made.metadata["external_files"] == ["model.bin"]


def test_weights_beyond_float16_are_counted_and_told(graphs, to_pivot, convert):
    proto = graphs.model(
        [graphs.node("Mul", ["x", "big"], ["y"])],
        [graphs.value("x", ["batch", 6])],
        [graphs.value("y", ["batch", 6])],
        [graphs.weight("big", np.array([1, 2, 3, 70000, -1e6, 4], "f4"))],
    )
    pivot = to_pivot(proto)
    assert convert(pivot).warnings == ()
    made = convert(pivot, "fp16")
    assert sum(made.facts["out_of_fp16_range"].values()) == 2
    assert "2 weights" in made.warnings[0]


def test_weights_that_openvino_leaves_in_float32_are_not_called_cut(graphs, to_pivot, convert):
    values = {"most": [1e6, 1e6, 1e-9, 4], "half": [1e6, 1e6, 1, 4]}  # from three quarters on
    proto = graphs.model(
        [graphs.node("Mul", ["x", "most"], ["h"]), graphs.node("Add", ["h", "half"], ["y"])],
        [graphs.value("x", ["batch", 4])],
        [graphs.value("y", ["batch", 4])],
        [graphs.weight(name, np.array(array, "f4")) for name, array in values.items()],
    )
    made = convert(to_pivot(proto), "fp16")
    assert made.facts["out_of_fp16_range"] == {"half": 2}
    stored = {
        node.get_friendly_name().partition("_")[0]: node.get_element_type().get_type_name()
        for node in openvino().Core().read_model(made.model.path).get_ops()
        if node.get_type_name() == "Constant"
    }
    assert stored == {"most": "f32", "half": "f16"}


def test_a_pivot_with_external_data(graphs, to_pivot, convert, opened, tmp_path):
    from lepton_onnx.pivot import freeze

    path = tmp_path / "large.onnx"
    freeze(graphs.mlp(4096), path, external_above=100)
    assert (tmp_path / "large.onnx.data").is_file()
    x = {"x": np.random.default_rng(0).normal(size=(3, 8)).astype("f4")}
    inside = opened(convert(to_pivot(graphs.mlp(4096)), name="in").model).run(x)
    outside = opened(convert(Model("pivot", str(path)), name="out").model).run(x)
    np.testing.assert_array_equal(inside["y"], outside["y"])
    (tmp_path / "large.onnx.data").unlink()
    with pytest.raises(SourceError):
        convert(Model("pivot", str(path)), name="gone")


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (ConvertRequest("openvino", precision="int8"), "LPT-CONV-301", "fp32 or fp16"),
        (
            ConvertRequest("openvino", precision="fp16", recipe="r.json"),
            "LPT-CONV-302",
            "r.json",
        ),
        (ConvertRequest("openvino", options={"input": 1}), "LPT-CONV-303", "'input'"),
    ],
)
def test_what_is_not_done_is_said(graphs, to_pivot, context, request_, code, says):
    with pytest.raises(UnsupportedOperationError) as caught:
        plugin.lepton_convert(to_pivot(graphs.mlp()), request_, context)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert caught.value.remedy
    assert not list(context.workdir.iterdir())


def test_other_edges_are_not_ours(context):
    assert plugin.lepton_convert(Model("onnx", "x"), ConvertRequest("openvino"), context) is None


def test_an_operator_without_a_rule_is_named_with_its_node(graphs, to_pivot, context):
    proto = graphs.model(
        [
            graphs.node("Relu", ["x"], ["r"]),
            graphs.node("Det", ["r"], ["d"], name="the_determinant"),
            graphs.node("Det", ["x"], ["e"]),
        ],
        [graphs.value("x", ["n", 3, 3])],
        [graphs.value("d", ["n"]), graphs.value("e", ["n"])],
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(to_pivot(proto), ConvertRequest("openvino"), context)
    assert caught.value.code == "LPT-CONV-304"
    assert "Det (node 'the_determinant')" in caught.value.message
    assert caught.value.details["operators"] == ["Det"]
    assert not list(context.workdir.iterdir())


def test_a_node_that_openvino_fails_on_is_named(graphs, context, tmp_path):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"], name="product")],
        [graphs.value("x", [2, 3])],
        [graphs.value("y", None)],
        [graphs.weight("w", np.ones((4, 5), "f4"))],
    )
    path = tmp_path / "wrong.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(Model("pivot", str(path)), ConvertRequest("openvino"), context)
    assert caught.value.code == "LPT-CONV-305"
    assert "MatMul" in caught.value.message
    assert "'y'" in caught.value.message
    assert "Incompatible MatMul" in caught.value.cause
    assert "src/" not in caught.value.cause
    assert not list(context.workdir.iterdir())


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_corrupt_pivot_is_a_source_error(graphs, to_pivot, context, tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is None:
        content = Path(to_pivot(graphs.mlp()).path).read_bytes()[:-300]
    path.write_bytes(content)
    with pytest.raises(SourceError):
        plugin.lepton_convert(Model("pivot", str(path)), ConvertRequest("openvino"), context)
    with pytest.raises(SourceError):
        plugin.lepton_convert(
            Model("pivot", str(tmp_path / "none.onnx")), ConvertRequest("openvino"), context
        )


def test_strings_cannot_be_passed(graphs, to_pivot, context):
    proto = graphs.model(
        [graphs.node("Identity", ["s"], ["t"])],
        [graphs.value("s", ["n"], TensorProto.STRING)],
        [graphs.value("t", ["n"], TensorProto.STRING)],
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(to_pivot(proto), ConvertRequest("openvino"), context)
    assert caught.value.code == "LPT-CONV-307"
    assert "s: string[n]" in caught.value.message


def test_a_full_disk_leaves_nothing(graphs, to_pivot, tmp_path, monkeypatch):
    from lepton_core.errors import StorageError
    from lepton_openvino import _ir

    folder = tmp_path / "full"
    folder.mkdir()

    def full(path, data):
        raise StorageError("LPT-IO-001", "The disk is full")

    monkeypatch.setattr(_ir, "write_atomic", full)
    with pytest.raises(StorageError):
        plugin.lepton_convert(to_pivot(graphs.mlp()), ConvertRequest("openvino"), Context(folder))
    assert not [p for p in folder.iterdir() if p.suffix == ".xml"]


def test_facts_are_plain_data(graphs, to_pivot, convert, opened):
    made = convert(to_pivot(graphs.mlp()), "fp16")
    json.dumps(dict(made.facts))
    json.dumps(dict(opened(made.model).facts))
