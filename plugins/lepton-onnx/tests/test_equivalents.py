"""Operators in forms that fit a runtime better: the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lepton_onnx.equivalents import lower_ranks

MOST = 5


def chain(first, perm, last, *, shown=False):
    """Return a Reshape, a Transpose and a Reshape of ``(n, ...)`` values."""
    nodes = [
        helper.make_node("Reshape", ["x", "first"], ["apart"]),
        helper.make_node("Transpose", ["apart"], ["moved"], perm=perm),
        helper.make_node("Reshape", ["moved", "last"], ["y"]),
    ]
    outputs = ["y", *(["moved"] if shown else [])]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "size"])]
    graph = helper.make_graph(
        nodes, "g", ports,
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(rank)])
            for n, rank in zip(outputs, (len(last), len(perm)), strict=False)
        ],
        [numpy_helper.from_array(np.array(v), n) for n, v in (("first", first), ("last", last))],
        value_info=[helper.make_tensor_value_info("apart", TensorProto.FLOAT, ["n"] * len(first))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CASES = {
    "windows": ([-1, 2, 4, 3, 4, 5], [0, 1, 3, 2, 4, 5], [-1, 16, 5]),
    "pixels together": ([-1, 3, 2, 2, 4, 5], [0, 1, 4, 2, 5, 3], [-1, 3, 8, 10]),
    "pixels apart": ([-1, 3, 4, 2, 5, 2], [0, 1, 3, 5, 2, 4], [-1, 12, 4, 5]),
    "seven": ([-1, 2, 3, 2, 2, 2, 5], [0, 1, 2, 4, 3, 5, 6], [-1, 5]),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_that_move_together_are_one(name):
    first, perm, last = CASES[name]
    proto = chain(first, perm, last)
    x = np.random.default_rng(0).normal(size=(2, abs(int(np.prod(first))))).astype("f4")
    wanted = ReferenceEvaluator(proto).run(None, {"x": x})
    assert lower_ranks(proto, MOST)
    onnx.checker.check_model(proto, full_check=True)
    (node,) = (n for n in proto.graph.node if n.op_type == "Transpose")
    assert len(node.attribute[0].ints) <= MOST
    for ours, theirs in zip(ReferenceEvaluator(proto).run(None, {"x": x}), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("first", "perm", "last", "shown"),
    [
        ([-1, 2, 3, 4], [0, 2, 1, 3], [-1, 24], False),  # few enough
        ([-1, 2, 2, 2, 2, 2], [5, 4, 3, 2, 1, 0], [-1], False),  # none side by side
        ([0, 2, 2, 2, 2, 2], [0, 1, 3, 2, 4, 5], [-1, 32], False),  # a size that was there
        ([-1, 2, 2, 2, 2, 2], [0, 1, 3, 2, 4, 5], [0, 32], False),
        ([-1, 2, 2, 2, 2, 2], [0, 1, 3, 2, 4, 5], [-1, 32], True),  # what others see
    ],
)
def test_others_stay(first, perm, last, shown):
    proto = chain(first, perm, last, shown=shown)
    before = proto.SerializeToString()
    assert not lower_ranks(proto, MOST)
    assert proto.SerializeToString() == before
