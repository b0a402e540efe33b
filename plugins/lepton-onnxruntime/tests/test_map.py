"""What the nodes of ONNX Runtime's own graph stand for, and which provider runs them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.context import Context
from lepton_core.errors import SessionError
from lepton_core.testing.conformance import check_execution_map
from lepton_core.types import Model, OpenRequest
from lepton_onnxruntime import plugin
from lepton_onnxruntime._execution import Execution, Run
from lepton_onnxruntime._map import map_of


@pytest.fixture
def integers(tmp_path):
    """A convolution and an activation between Q/DQ pairs."""
    node = helper.make_node
    weight = np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype("i1")
    arrays = {
        "s": np.float32(0.03), "z": np.int8(0), "w": weight, "ws": np.full(8, 0.01, "f4"),
        "wz": np.zeros(8, "i1"), "s2": np.float32(0.1),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["image", "s", "z"], ["qi"], "q1"),
            node("DequantizeLinear", ["qi", "s", "z"], ["di"], "d1"),
            node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], "d2", axis=0),
            node("Conv", ["di", "dw"], ["c"], "conv", pads=[1] * 4),
            node("Relu", ["c"], ["r"], "relu"),
            node("QuantizeLinear", ["r", "s2", "z"], ["qr"], "q2"),
            node("DequantizeLinear", ["qr", "s2", "z"], ["y"], "d3"),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return Model("pivot", str(path))


def opened(model, folder, **options):
    request = OpenRequest("onnxruntime", threads=1, options=options)
    return plugin.lepton_open(model, request, Context(folder))


def test_every_node_of_the_file_is_found_once(integers, tmp_path):
    with opened(integers, tmp_path) as session:
        check_execution_map(session)
        nodes = session.execution_map().nodes
    named = [name for node in nodes for name in node.sources]
    assert sorted(named) == ["conv", "d1", "d2", "d3", "q1", "q2", "relu"]
    by_source = {name: node for node in nodes for name in node.sources}
    assert by_source["conv"] is by_source["relu"]
    assert by_source["q1"].precision == ""


def test_without_a_look_at_the_graph_there_is_no_map(integers, tmp_path):
    with (
        opened(integers, tmp_path, execution_facts=False) as session,
        pytest.raises(SessionError) as caught,
    ):
        session.execution_map()
    assert caught.value.code == "LPT-RUN-004"
    assert "execution_facts=False" in caught.value.cause
    assert "execution_facts=True" in caught.value.remedy


def test_a_node_of_two_providers_is_told_apart_or_left_open():
    source = (("a", ("x",), ("u",)), ("b", ("u",), ("v",)), ("c", ("v",), ("y",)))
    runs = (
        Run("fused", "FusedMatMul", ("x",), ("v",), "fp16"),
        Run("copy", "MemcpyToHost", ("v",), ("w",), ""),
        Run("c", "Add", ("w",), ("y",), "fp32"),
    )
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    found = map_of(Execution({}, 0, runs), source, {"a": cuda, "b": cuda, "c": cpu}, [cuda, cpu])
    assert [node.sources for node in found.nodes] == [("a", "b"), (), ("c",)]
    assert [node.provider for node in found.nodes] == [cuda, "", cpu]
    assert [node.device for node in found.nodes] == ["cuda", "", "cpu"]
    assert "does not tell" in found.notes[0]
    assert found.totals()["devices"] == {"cpu": 1, "cuda": 1, "not told": 1}
