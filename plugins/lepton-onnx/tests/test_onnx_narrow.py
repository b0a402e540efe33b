"""The smallest part of a graph that fails, found with as few conversions as halving needs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core import recipe as recipes
from lepton_core.narrowing import SpentError
from lepton_core.types import ConvertRequest, Model
from lepton_onnx import pivot
from lepton_onnx.external import digest
from lepton_onnx.narrow import narrow, part_of

CHAIN = ("Relu", "Tanh", "Sigmoid", "Exp", "Abs", "Neg", "Sqrt", "Floor", "Ceil", "Sin", "Cos")


@pytest.fixture
def chain(tmp_path):
    """A chain of operators, each read by the next; the last adds what the second gave."""
    nodes, name = [], "x"
    for number, operator in enumerate(CHAIN):
        nodes.append(helper.make_node(operator, [name], [f"v{number}"], f"n{number}"))
        name = f"v{number}"
    nodes.append(helper.make_node("Add", [name, "v1"], ["y"], "sum"))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return saved(proto, tmp_path)


def saved(proto, folder):
    path = folder / "model.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(proto).SerializeToString())
    return Model("pivot", str(path), digest=digest(path))


class Fake:
    """Fails where a part holds some operators, and counts its calls."""

    def __init__(self, *operators, fixed=True, most=99):
        self.operators, self.fixed, self.most, self.calls = set(operators), fixed, most, 0

    def __call__(self, model, request):
        if self.calls == self.most:
            raise SpentError
        self.calls += 1
        proto = pivot.load(model.path)
        onnx.checker.check_model(proto)
        assert model.digest == digest(model.path)
        shape = proto.graph.input[0].type.tensor_type.shape.dim
        if not self.fixed and shape[0].HasField("dim_value"):
            return False
        return self.operators <= {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("operator", [*CHAIN, "Add"])
def test_one_operator_is_found_alone(chain, tmp_path, operator):
    fails = Fake(operator)
    found = narrow(chain, ConvertRequest("any"), tmp_path, fails)
    assert found.operator == operator
    place = "sum" if operator == "Add" else f"n{CHAIN.index(operator)}"
    assert (found.where, found.nodes, found.of) == (f"node '{place}'", (place,), 12)
    assert fails.calls <= 6, "the whole, four for the end, one for the operator alone"
    graph = pivot.load(found.model.path).graph
    assert [node.op_type for node in graph.node] == [operator]
    assert fails(found.model, found.request)


def test_operators_that_fail_together_are_found_together(chain, tmp_path):
    fails = Fake("Exp", "Sqrt")
    found = narrow(chain, ConvertRequest("any"), tmp_path, fails)
    assert (found.operator, found.nodes) == ("Sqrt", ("n3", "n4", "n5", "n6"))
    assert fails(found.model, found.request)


def test_open_dimensions_stay_open_where_that_is_what_fails(chain, tmp_path):
    found = narrow(chain, ConvertRequest("any"), tmp_path, Fake("Abs", fixed=False))
    assert found.operator == "Abs"
    (value,) = pivot.load(found.model.path).graph.input
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("shapes", ["batch=7", {"batch": 7}])
def test_sizes_that_were_asked_for_are_the_parts_sizes(chain, tmp_path, shapes):
    seen = []

    def fails(model, request):
        seen.append(dict(request.options))
        dim = pivot.load(model.path).graph.input[0].type.tensor_type.shape.dim[0]
        return dim.dim_value == 7 and Fake("Abs")(model, request)

    asked = ConvertRequest("any", options={"shapes": shapes, "layout": "nhwc", "io": "int8"})
    found = narrow(chain, asked, tmp_path, fails)
    assert found.operator == "Abs"
    assert all(options == {"io": "int8"} for options in seen)
    assert found.request.options == {"io": "int8"}


def test_what_does_not_fail_again_is_not_named(chain, tmp_path):
    assert narrow(chain, ConvertRequest("any"), tmp_path, Fake("Gemm")) is None


@pytest.mark.parametrize(("most", "nodes"), [(0, None), (1, None), (3, None), (5, 5), (6, 1)])
def test_a_spent_budget_gives_what_was_found(chain, tmp_path, most, nodes):
    found = narrow(chain, ConvertRequest("any"), tmp_path, Fake("Abs", most=most))
    assert (found and len(found.nodes)) == nodes
    assert found is None or found.operator == "Abs"


def test_a_part_reads_what_it_is_given_and_gives_what_is_read(chain):
    part = part_of(pivot.load(chain.path), 1, 3, {})
    assert [v.name for v in part.graph.input] == ["v0"]
    assert [v.name for v in part.graph.output] == ["v1", "v2"]
    assert [d.dim_value for d in part.graph.input[0].type.tensor_type.shape.dim] == [1, 4]


def test_a_recipe_is_cut_with_its_graph(tmp_path):
    weight = np.arange(-8, 8, dtype="f4").reshape(4, 4)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "mul"),
        helper.make_node("Flatten", ["b"], ["y"], "flat"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = saved(proto, tmp_path)
    shared = {"dtype": "int8", "estimator": "minmax", "rounding": "half-even"}
    seen = {"kind": "activation", "zero_point": 0, "observed": (-1.0, 1.0), **shared}
    whole = recipes.loads(
        recipes.dumps(
            recipes.Recipe(
                recipes.PivotId(model.digest, 21),
                "int8-static",
                {
                    "a": recipes.Tensor(scale=0.1, **seen),
                    "w": recipes.Tensor(
                        kind="weight", scale=[8 / 127] * 4, zero_point=0, axis=1,
                        observed=(-8.0, 7.0), **(shared | {"estimator": "absmax"}),
                    ),
                    "b": recipes.Tensor(scale=0.2, **seen),
                    "y": recipes.Tensor(scale=0.2, same_as="b", **seen),
                },
                {
                    "b": recipes.Layer("MatMul", "b", ("a",), "w"),
                    "y": recipes.Layer("Flatten", "y", ("b",)),
                },
            )
        )
    )  # fmt: skip
    path = recipes.write(whole, tmp_path / "recipe.json")

    def fails(part, request):
        cut = recipes.read(request.recipe)
        assert cut.pivot.digest == part.digest
        kinds = {node.op_type for node in pivot.load(part.path).graph.node}
        assert set(cut.layers) == {n for n, k in (("b", "MatMul"), ("y", "Flatten")) if k in kinds}
        return "MatMul" in kinds

    found = narrow(model, ConvertRequest("any", recipe=str(path)), tmp_path, fails)
    assert (found.operator, found.nodes) == ("MatMul", ("mul",))
    assert set(recipes.read(found.request.recipe).tensors) == {"a", "w", "b"}
