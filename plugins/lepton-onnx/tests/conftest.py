"""Small graphs, built here, that the tests of lepton-onnx share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.context import Context


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, weights=(), opset=21, ir=10, domains=(), functions=()):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def mlp(opset=21, ir=10, names=("1", "val_2", "val_3"), seed=0):
    """x @ W + b, Relu, times a constant; values and one weight are named by counting."""
    rng = np.random.default_rng(seed)
    hidden, summed, active = names
    return model(
        [
            helper.make_node("MatMul", ["x", "fc.weight"], [hidden]),
            helper.make_node("Add", [hidden, "val_9"], [summed], name="n1"),
            helper.make_node("Relu", [summed], [active]),
            helper.make_node("Mul", [active, "scale"], ["y"], name="/head/Mul"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 4])],
        [
            weight("fc.weight", rng.normal(size=(8, 4)).astype("f4")),
            weight("val_9", rng.normal(size=4).astype("f4")),
            weight("scale", np.float32(0.5)),
        ],
        opset=opset,
        ir=ir,
    )


def branches(opset=21):
    """An If whose branches take values and weights from outside; names repeat inside."""

    def branch(op):
        return helper.make_graph(
            [
                helper.make_node(op, ["3", "w"], ["val_1"]),
                helper.make_node("Neg", ["val_1"], [f"out_{op}"]),
            ],
            op,
            [],
            [value(f"out_{op}", None)],
        )

    return model(
        [
            helper.make_node("Relu", ["x"], ["3"]),
            helper.make_node("ReduceSum", ["3"], ["4"], keepdims=0),
            helper.make_node("Greater", ["4", "zero"], ["5"]),
            helper.make_node(
                "If", ["5"], ["6"], then_branch=branch("Add"), else_branch=branch("Mul")
            ),
            helper.make_node("Abs", ["6"], ["y"]),
        ],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        [weight("w", np.ones((2, 3), "f4") * 3), weight("zero", np.float32(1))],
        opset=opset,
    )


@pytest.fixture
def graphs():
    """The builders: ``value``, ``weight``, ``model``, ``mlp``, ``branches``."""
    return SimpleNamespace(
        value=value, weight=weight, model=model, mlp=mlp, branches=branches, node=helper.make_node
    )


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Context(folder)


@pytest.fixture
def run():
    """Run a model on ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    def call(source, inputs):
        proto = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(proto).run(None, inputs)
        return dict(zip([v.name for v in proto.graph.output], values, strict=True))

    return call
