"""Static int16: activations of 16 bits, weights of 8, on runtimes that load them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.recipe import PivotId, Recipe
from lepton_core.types import OpenRequest, OptimizeRequest
from lepton_onnx import pivot, qdq


def run(model, inputs, context, target):
    with context.hooks.open(model, OpenRequest(target, threads=1), context) as session:
        return next(iter(session.run(inputs).values()))


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    wide = random.standard_normal((40, 3, 16, 16)) * np.array([1, 0.05, 20])[:, None, None]
    return wide.astype(np.float32)


@pytest.fixture
def net(graphs):
    nodes = [
        graphs.conv("x", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["r1"]),
        graphs.node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        graphs.conv("p1", "w2", "b2", "c2"), graphs.node("Sigmoid", ["c2"], ["s"]),
        graphs.conv("s", "w3", "b3", "y"),
    ]  # fmt: skip
    return lambda **more: graphs.build(nodes, graphs.convs, **more)


def build(net, images, context_of, tmp_path, target, precision, **more):
    np.savez(tmp_path / "x.npz", x=images)
    work = context_of(f"{target}-{precision}")
    asked = OptimizeRequest(
        target, precision=precision, samples=str(tmp_path / "x.npz"), timing_seconds=0.0, **more
    )
    return work.hooks.optimize(net, asked, work)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_activations_of_16_bits_lose_less_than_those_of_8(
    net, images, context_of, tmp_path, target
):
    model = net()
    expected = run(model, {"x": images}, context_of("source"), "onnxruntime")
    errors = {}
    for precision in ("int8", "int16"):
        built = build(model, images, context_of, tmp_path, target, precision)
        actual = run(built.model, {"x": images}, context_of(f"run-{precision}"), target)
        errors[precision] = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        recipe = recipes.read(built.recipe)
        assert recipe.scheme == f"{precision}-static"
        assert built.model.metadata["precision"] == precision
    assert errors["int16"] < 0.6 * errors["int8"]  # what the weights' 8 bits cost stays
    tensors = [t for t in recipe.tensors.values() if t.kind == "activation"]
    assert {(t.dtype, t.zero_point) for t in tensors} == {("int16", 0)}
    assert recipe.tensors["s"].scale == 1 / 32768
    assert recipe.requires == {}


def test_files_hold_int16_and_a_recipe_gives_the_same_bytes(net, images, context_of, tmp_path):
    model = net()
    first = build(model, images, context_of, tmp_path, "onnxruntime", "int16")
    proto = onnx.load(first.model.path)
    types = {t.name: t.data_type for t in proto.graph.initializer}
    assert types["x/zero_point"] == onnx.TensorProto.INT16
    assert types["w1/int8"] == onnx.TensorProto.INT8
    assert types["b1"] == onnx.TensorProto.FLOAT
    work = context_of("again")
    asked = OptimizeRequest("onnxruntime", precision="int16", recipe=first.recipe)
    again = work.hooks.optimize(model, asked, work)
    assert Path(again.model.path).read_bytes() == Path(first.model.path).read_bytes()


def test_int16_is_refused_where_it_cannot_be(net, images, context_of, tmp_path):
    old = pivot.load(net().path)
    old.opset_import[0].version = 17
    recipe = Recipe(PivotId("sha256:1", 17), "int16-static", {}, {})
    with pytest.raises(OptimizeError) as failed:
        qdq.lower(old, recipe, digest="sha256:1")
    assert failed.value.code == "LPT-OPT-007"
    assert "opset 21" in failed.value.cause
    work = context_of("none")
    with pytest.raises(OptimizeError) as failed:
        work.hooks.optimize(net(), OptimizeRequest("onnxruntime", precision="int16"), work)
    assert failed.value.code == "LPT-OPT-017"
    with pytest.raises(OptimizeError) as failed:
        build(net(), images, context_of, tmp_path, "torch", "int16")
    assert failed.value.code == "LPT-OPT-016"
    with pytest.raises(OptimizeError) as failed:
        options = {"scheme": "dynamic"}
        build(net(), images, context_of, tmp_path, "openvino", "int16", options=options)
    assert failed.value.code == "LPT-OPT-015"


def test_what_is_said_about_int16_counts_its_own_steps(graphs, images, context_of, tmp_path):
    head = graphs.rand(6, 8, 1, 1, seed=5)
    head[0] *= 100000
    nodes = [
        graphs.conv("x", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["r1"]),
        graphs.node("Conv", ["r1", "wh", "bh"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": graphs.convs["w1"], "b1": graphs.convs["b1"], "wh": head, "bh": graphs.rand(6)}
    model = graphs.build(nodes, weights)
    with pytest.raises(OptimizeError, match="No int16 variant") as failed:
        options = {"metric": "rel_l2", "recover": "none"}
        build(model, images, context_of, tmp_path, "onnxruntime", "int16",
              max_drop=0.0, options=options)  # fmt: skip
    assert failed.value.code == "LPT-OPT-014"
    work = context_of("balanced")
    samples, options = str(tmp_path / "x.npz"), {"recover": "balance"}
    asked = OptimizeRequest("onnxruntime", precision="int16", samples=samples, options=options)
    built = work.hooks.optimize(model, asked, work)
    found = next(f for f in built.facts["diagnosis"] if f["mechanism"] == "mixed-head")
    step = next(s for s in built.facts["recovery"]["steps"] if s["method"] == "balance")
    assert found["text"].endswith("of 65534 steps")
    assert step["levels"]["y"] == pytest.approx(found["numbers"]["levels_of_median"], abs=0.11)


@pytest.mark.parametrize(
    "change", [{"zero_point": 3}, {"dtype": "int32"}, {"dtype": "int8", "zero_point": 0}]
)
def test_entries_of_16_bits_are_checked(net, images, context_of, tmp_path, change):
    built = build(net(), images, context_of, tmp_path, "onnxruntime", "int16")
    data = json.loads(Path(built.recipe).read_text())
    data["tensors"]["r1"] |= change
    with pytest.raises(OptimizeError, match="contradicts"):
        recipes.loads(json.dumps(data))
