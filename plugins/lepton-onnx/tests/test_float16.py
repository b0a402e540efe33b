"""Float16: what is stored and what is kept, and that the numbers stay near."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lepton_onnx import float16, pivot


def weights_of(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def kinds(proto):
    return [n.op_type for n in proto.graph.node]


def relative(found, expected):
    scale = np.linalg.norm(expected.astype("f8")) or 1.0
    return np.linalg.norm(found.astype("f8") - expected.astype("f8")) / scale


def test_weights_are_halved_and_the_border_stays_float32(graphs, run):
    source = graphs.mlp()
    before = source.SerializeToString(deterministic=True)
    result = float16.convert(source)
    assert source.SerializeToString(deterministic=True) == before
    assert result.kept == {}
    assert result.casts == 2
    assert kinds(result.model) == ["Cast", "MatMul", "Add", "Relu", "Mul", "Cast"]
    assert {a.dtype.name for a in weights_of(result.model).values()} == {"float16"}
    assert set(weights_of(result.model)) == set(weights_of(source))
    assert pivot.signature(result.model) == pivot.signature(source)
    onnx.checker.check_model(result.model, full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("f4")
    assert relative(run(result.model, {"x": x})["y"], run(source, {"x": x})["y"]) < 2e-3


def test_converting_is_deterministic(graphs):
    one, two = (float16.convert(graphs.branches()).model for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1e5, 1.0], "overflow"),
        ([1e-9, 1.0], "underflow"),
        ([65519.0], ""),
        ([65520.0], "overflow"),
        ([0.0, np.inf, -np.inf, np.nan], ""),
        ([[1e-6, 2e-6], [3e-6, 4e-6]], "underflow"),
        ([[1e-9, 1.0], [0.5, 0.25]], ""),
        ([], ""),
    ],
)
def test_what_float16_can_hold(values, why):
    assert float16.why_not_half(np.array(values, "f4")).split(":")[0] == why


def scaled(graphs, factor):
    return graphs.model(
        [
            graphs.node("Mul", ["x", "big"], ["h"], name="up"),
            graphs.node("Relu", ["h"], ["r"], name="relu"),
            graphs.node("Div", ["r", "big"], ["d"], name="down"),
            graphs.node("MatMul", ["d", "w"], ["y"], name="last"),
        ],
        [graphs.value("x", ["n", 4])],
        [graphs.value("y", ["n", 4])],
        [graphs.weight("big", np.float32(factor)), graphs.weight("w", np.eye(4, dtype="f4"))],
    )


def test_a_weight_that_overflows_stays_and_so_does_what_depends_on_it(graphs, run):
    source = scaled(graphs, 1e6)
    result = float16.convert(source)
    assert set(result.kept) >= {"big", "up", "relu", "down"}
    assert "overflow" in result.kept["big"]
    assert result.warnings == ()  # a scalar; the list of what is kept has it
    assert weights_of(result.model)["big"].dtype == np.float32
    x = np.array([[1, -2, 3, 4]], "f4")
    assert relative(run(result.model, {"x": x})["y"], run(source, {"x": x})["y"]) < 1e-3
    assert float16.convert(scaled(graphs, 2.0)).kept == {}


def test_a_vector_that_overflows_is_worth_a_warning(graphs):
    source = graphs.mlp()
    large = np.array([1, 2, 3, 1e6], "f4")
    source.graph.initializer[1].CopyFrom(graphs.weight("val_9", large))
    assert "'val_9': overflow: reaches 1e+06" in float16.convert(source).warnings[0]


def test_a_mask_of_lowest_floats_saturates_instead_of_becoming_infinite(graphs, run):
    """A row that is masked whole must not become NaN in the softmax."""
    lowest = np.finfo(np.float32).min
    source = graphs.model(
        [
            graphs.node("Where", ["mask", "zero", "lowest"], ["bias"]),
            graphs.node("MatMul", ["x", "w"], ["scores"]),
            graphs.node("Add", ["scores", "bias"], ["masked"]),
            graphs.node("Softmax", ["masked"], ["y"]),
        ],
        [graphs.value("x", [2, 4]), graphs.value("mask", [2, 4], TensorProto.BOOL)],
        [graphs.value("y", [2, 4])],
        [
            graphs.weight("w", np.eye(4, dtype="f4")),
            graphs.weight("zero", np.float32(0)),
            graphs.weight("lowest", np.float32(lowest)),
        ],
    )
    result = float16.convert(source)
    inputs = {
        "x": np.ones((2, 4), "f4"),
        "mask": np.array([[True, False, True, True], [False] * 4]),
    }
    found = run(result.model, inputs)["y"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, run(source, inputs)["y"], atol=1e-3)


def test_numbers_made_from_integers_stay_until_they_meet_data(graphs, run):
    """Positions above 2048 are not all float16 numbers; their sines are."""
    source = graphs.model(
        [
            graphs.node("Cast", ["p"], ["f"], name="cast", to=TensorProto.FLOAT),
            graphs.node("Mul", ["f", "rate"], ["angle"], name="angle"),
            graphs.node("Sin", ["angle"], ["s"], name="sin"),
            graphs.node("Mul", ["x", "s"], ["y"], name="rotate"),
        ],
        [graphs.value("p", [64], TensorProto.INT64), graphs.value("x", [64])],
        [graphs.value("y", [64])],
        [graphs.weight("rate", np.float32(0.5))],
    )
    result = float16.convert(source)
    assert {"cast", "angle", "sin"} <= set(result.kept)
    assert "rotate" not in result.kept
    inputs = {"p": np.arange(3000, 3064), "x": np.ones(64, "f4")}
    assert relative(run(result.model, inputs)["y"], run(source, inputs)["y"]) < 1e-3


def test_float_only_parameters_keep_their_dtype(graphs):
    """Resize reads its scales as float32 by definition; Range has no float16 at this opset."""
    source = graphs.model(
        [
            graphs.node("Resize", ["x", "", "scales"], ["big"], mode="nearest"),
            graphs.node("Range", ["start", "limit", "delta"], ["r"], name="range"),
            graphs.node("Add", ["big", "r"], ["y"]),
        ],
        [graphs.value("x", [1, 1, 2, 2])],
        [graphs.value("y", [1, 1, 4, 4])],
        [
            graphs.weight("scales", np.array([1, 1, 2, 2], "f4")),
            graphs.weight("start", np.float32(0)),
            graphs.weight("limit", np.float32(4)),
            graphs.weight("delta", np.float32(1)),
        ],
    )
    result = float16.convert(source)
    stored = weights_of(result.model)
    assert stored["scales"].dtype == np.float32
    assert stored["delta"].dtype == np.float32
    assert result.kept == {"range": "ONNX defines it for float32 only"}


def test_nested_graphs_stay_whole(graphs, run):
    source = graphs.branches()
    result = float16.convert(source)
    assert "it holds nested graphs" in result.kept.values()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("f4")
    for sign in (1, -1):
        expected = run(source, {"x": sign * x})["y"]
        assert relative(run(result.model, {"x": sign * x})["y"], expected) < 2e-3


def test_constants_casts_and_integers(graphs, run):
    source = graphs.model(
        [
            graphs.node("Constant", [], ["two"], value_float=2.0),
            graphs.node("ConstantOfShape", ["shape"], ["zeros"]),
            graphs.node("ArgMax", ["x"], ["i"], axis=1),
            graphs.node("Cast", ["flag"], ["f"], to=TensorProto.FLOAT),
            graphs.node("Mul", ["x", "two"], ["m"]),
            graphs.node("Add", ["m", "zeros"], ["a"]),
            graphs.node("Add", ["a", "f"], ["y"]),
        ],
        [graphs.value("x", [2, 3]), graphs.value("flag", [2, 3], TensorProto.BOOL)],
        [graphs.value("y", [2, 3]), graphs.value("i", [2, 1], TensorProto.INT64)],
        [graphs.weight("shape", np.array([2, 3], "i8"))],
    )
    result = float16.convert(source)
    assert result.kept == {}
    assert result.casts == 2
    assert weights_of(result.model)["shape"].dtype == np.int64
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 3)).astype("f4")}
    inputs["flag"] = np.array([[True, False, True]] * 2)
    found, expected = run(result.model, inputs), run(source, inputs)
    np.testing.assert_array_equal(found["i"], expected["i"])
    assert relative(found["y"], expected["y"]) < 2e-3


@pytest.mark.parametrize("what", ["Relu", "val_3", "fc.weight"])
def test_keep_by_operator_value_or_weight(graphs, what):
    result = float16.convert(graphs.mlp(), keep=[what])
    assert "asked for" in " ".join(result.kept.values())
    if what == "fc.weight":
        assert weights_of(result.model)["fc.weight"].dtype == np.float32


def test_declared_ranges_keep_values(graphs):
    result = float16.convert(graphs.mlp(), ranges={"val_2": (-1e6, 10.0), "1": (-1.0, 1.0)})
    assert sum("exceed" in reason for reason in result.kept.values()) == 2
    types = {v.name: v.type.tensor_type.elem_type for v in result.model.graph.value_info}
    assert types["val_2"] == TensorProto.FLOAT


def test_a_weight_used_in_both_precisions_is_stored_twice(graphs):
    source = graphs.model(
        [
            graphs.node("Mul", ["x", "w"], ["h"]),
            graphs.node("Add", ["h", "w"], ["y"], name="exact"),
        ],
        [graphs.value("x", [3])],
        [graphs.value("y", [3])],
        [graphs.weight("w", np.array([1, 2, 3], "f4"))],
    )
    stored = weights_of(float16.convert(source, keep=["exact"]).model)
    assert stored["w"].dtype == np.float32
    assert stored["w/fp16"].dtype == np.float16


def test_an_output_used_further_on_and_an_epsilon(graphs, run):
    source = graphs.model(
        [
            graphs.node("Relu", ["x"], ["y"]),
            graphs.node("BatchNormalization", ["y", "s", "b", "m", "v"], ["n"], name="bn",
                        epsilon=1e-9),
            graphs.node("LayerNormalization", ["n", "s"], ["z"], name="ln", epsilon=1e-12),
        ],
        [graphs.value("x", [2, 3])],
        [graphs.value("y", [2, 3]), graphs.value("z", [2, 3])],
        [graphs.weight(n, np.ones(3, "f4")) for n in "sbmv"],
    )  # fmt: skip
    result = float16.convert(source)
    assert set(result.kept) == {"bn"}
    assert "epsilon" in result.kept["bn"]
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("f4")
    for name, expected in run(source, {"x": x}).items():
        assert relative(run(result.model, {"x": x})[name], expected) < 5e-3


UNARY = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Softmax", "Identity"]
BINARY = ["Add", "Sub", "Mul", "Max"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_graphs_stay_near(graphs, run, data):
    """Random graphs of well-behaved operators, some kept: the result is valid and near."""
    size = data.draw(st.integers(1, 12))
    nodes, values, weights = [], ["x"], []
    for index in range(size):
        name = f"v{index}.out"
        a = data.draw(st.sampled_from(values))
        kind = data.draw(st.sampled_from([*UNARY, *BINARY, "weight", "matmul"]))
        if kind in UNARY:
            nodes.append(helper.make_node(kind, [a], [name], name=f"n{index}"))
        elif kind in BINARY:
            b = data.draw(st.sampled_from(values))
            nodes.append(helper.make_node(kind, [a, b], [name], name=f"n{index}"))
        else:
            rng = np.random.default_rng(index)
            shape = (4, 4) if kind == "matmul" else (4,)
            weights.append(graphs.weight(f"w{index}", rng.uniform(-0.5, 0.5, shape).astype("f4")))
            op = "MatMul" if kind == "matmul" else "Mul"
            nodes.append(helper.make_node(op, [a, f"w{index}"], [name], name=f"n{index}"))
        values.append(name)
    outputs = data.draw(st.lists(st.sampled_from(values[1:]), min_size=1, unique=True))
    outputs = sorted({*outputs, values[-1]})
    source = graphs.model(
        nodes, [graphs.value("x", [3, 4])], [graphs.value(n, [3, 4]) for n in outputs], weights
    )
    keep = data.draw(st.lists(st.sampled_from([n.name for n in nodes]), unique=True))
    result = float16.convert(source, keep=keep)
    assert set(keep) == set(result.kept)
    x = np.random.default_rng(size).uniform(-1, 1, (3, 4)).astype("f4")
    found, expected = run(result.model, {"x": x}), run(source, {"x": x})
    for name in outputs:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(
            found[name], expected[name], rtol=3e-2, atol=3e-2 * (1 + np.abs(expected[name]).max())
        )
    cast = {n.output[0]: n for n in result.model.graph.node if n.op_type == "Cast"}
    assert not [n for n in cast.values() if n.input[0] in cast], "a Cast of a Cast"


def test_a_name_to_keep_that_is_not_there_is_said(graphs):
    assert "'nowhere'" in float16.convert(graphs.mlp(), keep=["nowhere", "Relu"]).warnings[0]
