"""Which operators compute with integers, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lepton_compress._build import choose_layers, static_recipe
from lepton_compress._graph import Graph
from lepton_compress._select import equal_scales, select
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.samples import Samples
from lepton_core.types import ConvertRequest
from lepton_onnx import pivot, qdq


def head(graphs):
    return [graphs.conv("x", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["r1"])]


def middle(graphs, name):
    """Return nodes from ``r1`` to ``m``, further weights, and the integer operators wanted."""
    node, second = graphs.node, graphs.conv("r1", "w2", "b2", "c2")
    ints = {k: np.array(v) for k, v in {"axes": [2], "from": [2], "to": [14]}.items()}
    return {
        "residual": (
            [second, node("Add", ["c2", "r1"], ["a"]), node("Relu", ["a"], ["m"])],
            {},
            {"QLinearConv": 3, "QLinearAdd": 1},
        ),
        "gate": (
            [second, node("Sigmoid", ["c2"], ["s"]), node("Mul", ["c2", "s"], ["m"])],
            {},
            {"QLinearConv": 3, "QLinearSigmoid": 1, "QLinearMul": 1},
        ),
        "average": (
            [node("AveragePool", ["r1"], ["m"], kernel_shape=[2, 2], strides=[2, 2])],
            {},
            {"QLinearConv": 2, "QLinearAveragePool": 1},
        ),
        "global": (
            [node("GlobalAveragePool", ["r1"], ["m"])],
            {},
            {"QLinearConv": 2, "QLinearGlobalAveragePool": 1},
        ),
        "largest": (
            [node("MaxPool", ["r1"], ["m"], kernel_shape=[2, 2], strides=[2, 2])],
            {},
            {"QLinearConv": 2, "NhwcMaxPool": 1},
        ),
        "concat": (
            [second, node("Concat", ["c2", "r1"], ["m"], axis=1)],
            {"w3": graphs.rand(8, 16, 3, 3)},
            {"QLinearConv": 3, "QLinearConcat": 1},
        ),
        "resize": (
            [node("Resize", ["r1", "", "sizes"], ["m"], mode="nearest")],
            {"sizes": np.array([1, 1, 2, 2], np.float32)},
            {"QLinearConv": 2, "Resize": 1},
        ),
        "transpose": (
            [node("Transpose", ["r1"], ["m"], perm=[0, 1, 3, 2])],
            {},
            {"QLinearConv": 2},
        ),
        "slice": (
            [node("Slice", ["r1", "from", "to", "axes"], ["m"])],
            ints,
            {"QLinearConv": 2, "Slice": 1},
        ),
        "clip": (
            [second, node("Clip", ["c2", "zero", "six"], ["m"])],
            {"zero": np.float32(0), "six": np.float32(0.6)},
            {"QLinearConv": 3},
        ),
        "depthwise": (
            [node("Conv", ["r1", "wd", "b2"], ["m"], group=8, pads=[1, 1, 1, 1])],
            {"wd": graphs.rand(8, 1, 3, 3)},
            {"QLinearConv": 3},
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "residual", "gate", "average", "global", "largest", "concat", "resize", "transpose",
        "slice", "clip", "depthwise",
    ],
)  # fmt: skip
def test_onnx_runtime_fuses_what_was_selected(graphs, context, context_of, tmp_path, name):
    nodes, more, wanted = middle(graphs, name)
    nodes = [*head(graphs), *nodes, graphs.conv("m", "w3", "b3", "y")]
    model = graphs.build(nodes, {**graphs.convs, **more})
    graph = Graph(pivot.load(model.path))
    x = graphs.rand(48, 3, 16, 16, seed=9)
    recipe, _ = static_recipe(graph, model.digest, 21, Samples({"x": x}), context)
    place = recipes.write(recipe, tmp_path / "recipe.json")
    built = context.hooks.convert(
        model, ConvertRequest("onnxruntime", recipe=str(place)), context_of("built")
    ).model
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    # As a session of lepton asks for it: a CPU without VNNI would saturate sums of 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(built.path, options, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"x": x})
    plain = ort.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, {"x": x})
    assert np.linalg.norm(actual - expected) < 0.05 * np.linalg.norm(expected)
    found = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert {op: found[op] for op in wanted} == wanted
    assert not found["Conv"] + found["FusedConv"]
    integers = {
        n: qdq.weight_integers(graph.array(n), t)
        for n, t in recipe.tensors.items()
        if t.kind == "weight"
    }
    assert qdq.compare(recipe, qdq.read_back(pivot.load(built.path)), integers) == []


def test_equal_scales_across_moves_and_joins(graphs, context):
    nodes, more, _ = middle(graphs, "concat")
    pool = graphs.node("MaxPool", ["m"], ["p"], kernel_shape=[2, 2])
    nodes = [*head(graphs), *nodes, pool, graphs.conv("p", "w3", "b3", "y")]
    model = graphs.build(nodes, {**graphs.convs, **more})
    graph = Graph(pivot.load(model.path))
    chosen = select(graph)
    groups = equal_scales(chosen.layers)
    assert len({groups[v] for v in ("r1", "c2", "m", "p")}) == 1
    samples = Samples({"x": graphs.rand(16, 3, 16, 16)})
    recipe, ranges = static_recipe(graph, model.digest, 21, samples, context)
    assert len({(recipe.tensors[v].scale, recipe.tensors[v].zero_point) for v in groups}) == 3
    low = min(ranges["c2"].low, 0)
    high = max(ranges["c2"].high, ranges["r1"].high)
    assert recipe.tensors["m"].scale == pytest.approx((high - low) / 255, rel=1e-6)


def test_softmax_and_logistic_outputs_have_the_fixed_scale(graphs, context):
    nodes, _, _ = middle(graphs, "gate")
    nodes = [*head(graphs), *nodes, graphs.conv("m", "w3", "b3", "y")]
    model = graphs.build(nodes, graphs.convs)
    graph = Graph(pivot.load(model.path))
    samples = Samples({"x": graphs.rand(8, 3, 16, 16)})
    recipe, ranges = static_recipe(graph, model.digest, 21, samples, context)
    entry = recipe.tensors["s"]
    assert (entry.scale, entry.zero_point, entry.estimator) == (1 / 256, -128, "fixed")
    assert "s" not in ranges


def test_a_concat_that_would_join_a_fixed_scale_stays_float(graphs):
    node = graphs.node
    nodes = [
        *head(graphs),
        node("Sigmoid", ["r1"], ["s"]),
        node("Concat", ["s", "r1"], ["m"], axis=1),
        graphs.conv("m", "w3", "b3", "y"),
    ]
    model = graphs.build(nodes, {**graphs.convs, "w3": graphs.rand(8, 16, 3, 3)})
    chosen = select(Graph(pivot.load(model.path)))
    assert "scale is fixed" in chosen.kept_float["m"]
    assert "y" in chosen.layers


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ([("Gemm", ["x", "w"], {"alpha": 2.0})], {"w": (8, 4)}, "alpha"),
        ([("MatMul", ["w", "x"], {})], {"w": (4, 8)}, "left operand"),
        ([("MatMul", ["x", "w"], {})], {"w": (2, 8, 4)}, "two axes"),
        ([("Gelu", ["x"], {})], {}, "Gelu has no integer rule"),
    ],
)
def test_what_stays_float_has_a_reason(graphs, nodes, weights, reason):
    made = [graphs.node(op, inputs, ["y"], **more) for op, inputs, more in nodes]
    arrays = {name: graphs.rand(*shape) for name, shape in weights.items()}
    model = graphs.build(made, arrays, shape=(8, 8))
    chosen = select(Graph(pivot.load(model.path)))
    assert not chosen.layers
    assert reason in chosen.kept_float["y"]


def test_weights_of_other_floats_are_named(graphs):
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    made = [
        graphs.node("Cast", ["x"], ["h"], to=half),
        graphs.node("MatMul", ["h", "w"], ["m"]),
        graphs.node("Cast", ["m"], ["y"], to=single),
    ]
    model = graphs.build(made, {"w": graphs.rand(8, 4).astype("f2")}, shape=("n", 8))
    graph = Graph(pivot.load(model.path))
    assert select(graph).kept_float == {"m": "its weight is not float32"}
    with pytest.raises(OptimizeError, match="LPT-OPT-012") as caught:
        choose_layers(graph)
    assert caught.value.cause.endswith("can be: its weight is not float32")
    assert "float32 weights" in caught.value.remedy


def test_keep_by_value_node_or_operator(graphs):
    model = graphs.build([*head(graphs), graphs.conv("r1", "w3", "b3", "y")], graphs.convs)
    graph = Graph(pivot.load(model.path))
    assert list(select(graph).layers) == ["c1", "y"]
    assert list(select(graph, ["c1"]).layers) == ["y"]
    assert not select(graph, ["Conv"]).layers


def test_a_large_bias_raises_the_scale_of_its_channel(graphs, context):
    weights = {**graphs.convs, "w1": graphs.convs["w1"].copy(), "b1": graphs.convs["b1"].copy()}
    weights["w1"][2] *= 1e-12
    weights["b1"][2] = 5.0
    nodes = [graphs.conv("x", "w1", "b1", "c1"), graphs.conv("c1", "w3", "b3", "y")]
    model = graphs.build(nodes, weights)
    graph = Graph(pivot.load(model.path))
    samples = Samples({"x": graphs.rand(8, 3, 16, 16)})
    recipe, _ = static_recipe(graph, model.digest, 21, samples, context)
    lowered = qdq.lower(graph.model, recipe, digest=model.digest)
    stored = qdq.read_back(lowered.model)["c1/bias"]
    restored = stored.integers * stored.scale.astype(np.float64)
    assert (np.abs(restored - weights["b1"]) <= 0.5001 * stored.scale).all()
    assert restored[2] == pytest.approx(5.0)
    assert np.abs(stored.integers).max() <= 2**30 + 64
