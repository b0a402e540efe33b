"""One command says of every runtime which nodes ran where, in which precision, in the same form."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lepton_core.cli import main
from lepton_core.errors import SessionError
from lepton_core.execution import ExecutedNode, ExecutionMap, execution_map


def test_totals_count_nodes_by_precision_provider_and_device():
    nodes = (
        ExecutedNode("a", "Conv", ("c", "r"), "cuda", "CUDA", "fp16"),
        ExecutedNode("b", "Cast", (), "cuda", "CUDA"),
        ExecutedNode("c", "Gemm", ("g",), "cpu", "CPU", "fp32"),
        ExecutedNode("d", "Add", ("h",), "", "", "fp32"),
    )
    assert ExecutionMap("x", nodes).totals() == {
        "nodes": 4,
        "computing": 3,
        "precisions": {"fp16": 1, "fp32": 2},
        "providers": {
            "CPU": {"fp32": 1}, "CUDA": {"fp16": 1, "moves": 1}, "not told": {"fp32": 1},
        },
        "devices": {"cpu": 1, "cuda": 2, "not told": 1},
    }  # fmt: skip


def test_a_runtime_that_does_not_tell_is_named():
    with pytest.raises(SessionError) as caught:
        execution_map(SimpleNamespace(facts={"runtime": "mute"}))
    assert caught.value.code == "LPT-RUN-004"
    assert "mute" in caught.value.message


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A graph with a convolution that every runtime fuses with what follows it."""
    helper = pytest.importorskip("onnx").helper
    from onnx import TensorProto, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "conv.weight": rng.normal(size=(8, 3, 3, 3)),
        "fc.weight": rng.normal(size=(5, 8)),
        "fc.bias": rng.normal(size=5),
    }
    made = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "conv.weight"], ["c"], "conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flat"),
            helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["scores"], "fc", transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(a.astype("f4"), name) for name, a in arrays.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def on_onnxruntime(graph, root, folder):
    pytest.importorskip("lepton_onnxruntime")
    return graph, {"conv": {"conv", "relu"}, "fc": {"fc"}}


def on_openvino(graph, root, folder):
    pytest.importorskip("lepton_openvino")
    assert main(["convert", str(graph), "--to", "openvino", "--out", str(folder / "ir")]) == 0
    return folder / "ir", {"conv": {"conv", "relu"}, "scores": {"scores"}}  # a port keeps its name


def on_tflite(graph, root, folder):
    pytest.importorskip("lepton_tflite")
    place = root / "plugins/lepton-tflite/tests/_handmade.py"
    spec = importlib.util.spec_from_file_location("lepton_tflite_handmade", place)
    handmade = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handmade)
    path = folder / "net.tflite"
    path.write_bytes(handmade.int8_net())
    return path, {"y": {"y"}}


@pytest.mark.parametrize(
    ("target", "made", "precision", "provider"),
    [
        ("onnxruntime", on_onnxruntime, "fp32", "CPUExecutionProvider"),
        ("openvino", on_openvino, "fp32", "CPU"),
        ("tflite", on_tflite, "int8", "XNNPACK"),
    ],
)
def test_the_command_shows_the_same_form_for_each_runtime(
    target, made, precision, provider, graph, root, tmp_path, capsys
):
    path, wanted = made(graph, root, tmp_path)
    capsys.readouterr()
    command = ["open", str(path), "--to", target, "--execution"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["execution"]
    assert list(found) == ["runtime", "totals", "nodes", "notes"]
    assert list(found["totals"]) == ["nodes", "computing", "precisions", "providers", "devices"]
    assert found["notes"] == []
    by_source = {source: node for node in found["nodes"] for source in node["sources"]}
    for name, together in wanted.items():
        node = by_source[name]
        assert set(node) == {"name", "operator", "sources", "device", "provider", "precision"}
        assert together <= set(node["sources"]), "what is fused is named together"
        assert (node["precision"], node["provider"]) == (precision, provider)
        assert node["device"] == "cpu"
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "stands for" in text
    for node in found["nodes"]:
        assert node["operator"] in text
    counts = ", ".join(f"{n} {p}" for p, n in found["totals"]["providers"][provider].items())
    assert f"{provider}: {counts}" in text
