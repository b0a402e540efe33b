"""What other targets find in a lowered graph: weights that are restored, and tables."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lepton_core.recipe import Layer, PivotId, Recipe, Tensor
from lepton_onnx import qdq
from lepton_onnx.editing import put_nodes

WEIGHT = np.random.default_rng(0).normal(size=(16, 8)).astype("f4")


def lowered(op: str) -> ModelProto:
    """Return a product with a weight of int8, or a lookup in one."""
    inputs = ["x", "w"] if op == "MatMul" else ["w", "x"]
    kind, shape = (TensorProto.FLOAT, ["n", 16]) if op == "MatMul" else (TensorProto.INT64, ["n"])
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], name="y")], "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )  # fmt: skip
    scale = tuple(float(s) for s in np.abs(WEIGHT).max(0) / np.float32(127))
    recipe = Recipe(
        PivotId("sha256:0", 21), "int8-weight-only",
        tensors={"w": Tensor("weight", scale, axis=1, estimator="absmax")},
        layers={"y": Layer(op, "y", (), "w", mode="weight")},
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return qdq.lower(proto, recipe, digest="sha256:0").model


def parts(proto):
    made_by = {name: node for node in proto.graph.node for name in node.output}
    return made_by, {t.name: t for t in proto.graph.initializer}


def test_a_weight_that_a_cast_and_a_mul_restore_is_found_as_it_is_read_back():
    proto = lowered("MatMul")
    made_by, constants = parts(proto)
    (found,) = filter(None, (qdq.restored_weight(n, made_by, constants) for n in proto.graph.node))
    stored = qdq.read_back(proto)["w"]
    assert (found.name, found.codes, found.axis) == ("w", "w/int8", stored.axis)
    np.testing.assert_array_equal(found.scale, stored.scale)
    assert not any(qdq.reads_table(node, constants) for node in proto.graph.node)


def test_a_table_is_found_and_is_no_restored_weight():
    proto = lowered("Gather")
    made_by, constants = parts(proto)
    assert [n.op_type for n in proto.graph.node if qdq.reads_table(n, constants)] == ["Gather"]
    assert not any(qdq.restored_weight(n, made_by, constants) for n in proto.graph.node)


def test_casts_and_constants_that_nothing_reads_go_with_the_nodes():
    proto = lowered("MatMul")
    _, constants = parts(proto)
    kept = [node for node in proto.graph.node if node.op_type != "Mul"]
    put_nodes(proto.graph, kept, {**constants, "w": numpy_helper.from_array(WEIGHT, "w")})
    assert [node.op_type for node in proto.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in proto.graph.initializer] == ["w"]
