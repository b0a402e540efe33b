"""Shape arithmetic on known values computes what the translations to tensors compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from lepton_torch._bridge import operators  # noqa: F401 - fills the table
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._known import KNOWN
from lepton_torch._bridge._module import BridgeModule, evaluate
from lepton_torch._bridge._registry import Node
from lepton_torch._bridge._values import Known

A, B, NEGATIVE = [7, 4, 9, 2], [2, 3, 4, 2], [-7, 5, -9, 6]
FLOATS = np.array([-1.5, 0.5, 2.0, 3.25], np.float32)
YES, NO = np.array([True, True, False, False]), np.array([True, False, True, False])
CASES = [
    *[(name, {}, [a, b]) for a in (A, NEGATIVE) for b in (B, [-2, 3, -4, 2])
      for name in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Greater",
                   "GreaterOrEqual", "Less", "LessOrEqual")],
    ("Mod", {"fmod": 1}, [NEGATIVE, B]),
    ("Div", {}, [FLOATS, np.float32([2, 4, -1, 0.5])]),
    *[(name, {}, [NEGATIVE]) for name in ("Abs", "Neg", "Identity", "Shape")],
    *[(name, {}, [FLOATS]) for name in ("Abs", "Neg", "Floor", "Ceil")],
    *[(name, {}, [YES, NO]) for name in ("And", "Or", "Equal")],
    ("Not", {}, [YES]),
    ("Where", {}, [YES, A, B]),
    *[("Cast", {"to": to}, [value]) for to in (1, 6, 7, 9, 11) for value in (NEGATIVE, FLOATS)],
    ("Concat", {"axis": 0}, [A, B]),
    ("Gather", {}, [A, [2, 0]]),
    ("Gather", {"axis": 1}, [[A, B], [1, -1]]),
    ("Slice", {}, [A, [1], [9]]),
    ("Slice", {}, [A, [-1], [-99], [0], [-1]]),
    ("Split", {}, [A, [1, 3]]),
    ("Split", {"num_outputs": 2}, [A]),
    ("Reshape", {}, [A, [2, -1]]),
    ("Expand", {}, [[[7], [4]], [2, 3]]),
    ("ConstantOfShape", {}, [[2, 3]]),
    ("Unsqueeze", {}, [A, [0]]),
    ("Squeeze", {}, [[A], [0]]),
    ("Range", {}, [1, 9, 3]),
    *[(f"Reduce{name}", attributes, [NEGATIVE, *axes])
      for name in ("Max", "Min", "Prod", "Sum")
      for attributes in ({}, {"keepdims": 0}, {"noop_with_empty_axes": 1})
      for axes in ([], [[0]])],
    *[(f"Reduce{name}", {}, [[A, B], [0]]) for name in ("Max", "Min", "Prod", "Sum")],
]  # fmt: skip


def known(value):
    array = np.asarray(value)
    return Known(array.astype(object), torch.from_numpy(np.atleast_1d(array)).dtype)


@pytest.mark.parametrize(("name", "attributes", "values"), CASES)
def test_a_rule_gives_what_the_tensors_give(name, attributes, values):
    outputs = ("a", "b") if name == "Split" else ("a",)
    node = Node(name, tuple(f"x{n}" for n in range(len(values))), outputs, attributes)
    inputs = [known(value) for value in values]
    found = KNOWN[name](node, *inputs)
    if found is None:
        return  # left to tensors
    wanted = evaluate(node, inputs, lambda value: value.tensor(), known=False)
    for mine, other in zip(found if isinstance(found, list) else [found], wanted, strict=True):
        theirs = other.tensor() if isinstance(other, Known) else other
        assert mine.dtype == theirs.dtype
        assert mine.tensor().shape == theirs.shape
        assert torch.equal(mine.tensor(), theirs)


def test_every_rule_is_compared():
    assert {name for name, *_ in CASES} == set(KNOWN)


def test_what_no_rule_computes_is_left_to_tensors():
    assert KNOWN["Mod"](Node("Mod", ("a", "b"), ("c",), {"fmod": 1}), known(A), known(B)) is None
    noop = Node("ReduceSum", ("a",), ("b",), {"noop_with_empty_axes": 1})
    assert KNOWN["ReduceSum"](noop, known(A)) is None


def test_a_negative_difference_of_sizes_is_divided_toward_zero():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Sub", ["shape", "five"], ["less"]),
        helper.make_node("Div", ["less", "two"], ["half"]),
        helper.make_node("Cast", ["half"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "float"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([n], np.int64), name)
        for n, name in ((5, "five"), (2, "two"))
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    program = torch.export.export(
        BridgeModule(read_graph(model)),
        (torch.zeros(3),),
        dynamic_shapes=((({0: torch.export.Dim("n", min=2, max=64)}),),),
    )
    for count, half in ((2, -1.0), (3, -1.0), (4, 0.0), (6, 0.0), (10, 2.0)):
        (found,) = program.module()(torch.zeros(count))
        assert found.tolist() == [half] * count
