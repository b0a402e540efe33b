"""A recipe in a package: the same integers, scales and zero points as everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from lepton_core import recipe as recipes
from lepton_core.context import Context
from lepton_core.errors import LeptonError
from lepton_core.recipe import BlockWeight, Layer, PivotId, Recipe, Tensor
from lepton_core.types import ConvertRequest
from lepton_coreml import plugin
from lepton_coreml._integers import read_back, read_blocks
from lepton_coreml._mil._package import open_package
from lepton_onnx import pivot as pivots_of
from lepton_onnx import plugin as onnx_plugin
from lepton_onnx import qdq


def weights_of(pivot):
    graph = pivots_of.load(pivot.path).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


def per_channel(array, axis):
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others) / np.float32(127)
    return Tensor("weight", tuple(float(s) for s in scale), axis=axis, estimator="absmax")


def activation(scale, zero, **more):
    return Tensor("activation", scale, zero, observed=(-1.0, 1.0), **more)


def static_recipe(pivot):
    """Both convolutions and the head compute with integers; the residual sum stays float."""
    weights = weights_of(pivot)
    tensors = {
        "in.image": activation(0.03, 3),
        "r": activation(0.05, -128),
        "p": activation(0.05, -128, same_as="r"),
        "f": activation(0.02, -40),
        "stem.weight": per_channel(weights["stem.weight"], 0),
        "deep.weight": per_channel(weights["deep.weight"], 0),
        "head.weight": per_channel(weights["head.weight"], 0),
        "logits": activation(0.07, 11, optional=True),
        "d": activation(0.06, 5, optional=True),
    }
    layers = {
        "s": Layer("Conv", "r", ("in.image",), "stem.weight", "stem.bias", ("r",)),
        "p": Layer("MaxPool", "p", ("r",)),
        "d": Layer("Conv", "d", ("p",), "deep.weight"),
        "logits": Layer("Gemm", "logits", ("f",), "head.weight", "head.bias"),
    }
    return Recipe(PivotId(pivot.digest, 21), "int8-static", tensors, layers)


def weight_recipe(pivot):
    """Weights alone are integers, one of them a table."""
    weights = weights_of(pivot)
    table = Tensor(
        "weight", float(np.abs(weights["table"]).max() / np.float32(127)), estimator="absmax"
    )
    layers = {"e": Layer("Gather", "e", (), "table", mode="weight")}
    return Recipe(PivotId(pivot.digest, 21), "int8-weight-only", {"table": table}, layers)


@pytest.fixture(scope="module")
def lowered(pivots, tmp_path_factory):
    """Packages made from a recipe, with the recipe."""
    made = {}

    def call(name, make, device="ios18", pivot=None, arrays=None):
        key = (name, make, device)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{device}")
            source = pivot or pivots(name)
            recipe = make(source)
            path = recipes.write(recipe, folder / "recipe.json", integers=arrays)
            request = ConvertRequest("coreml", precision="int8", recipe=str(path), device=device)
            made[key] = recipe, plugin.lepton_convert(source, request, Context(folder))
        return made[key]

    return call


def integers_of(recipe, pivot):
    weights = weights_of(pivot)
    return {
        name: qdq.weight_integers(weights[name], tensor)
        for name, tensor in recipe.tensors.items()
        if tensor.kind == "weight"
    }


@pytest.mark.parametrize("device", ["ios18", "ios17"])
def test_the_numbers_of_a_static_recipe_are_in_the_file(device, lowered, pivots):
    recipe, result = lowered("network", static_recipe, device)
    stored = read_back(open_package(Path(result.model.path)).program())
    wanted = integers_of(recipe, pivots("network"))
    assert qdq.compare(recipe, stored, wanted) == []
    assert {"in.image", "r", "f", *wanted} <= set(stored)
    assert all(stored[name].integers.dtype == np.int8 for name in wanted)


def test_values_that_share_a_scale_may_all_be_outputs(pivots, lowered, tmp_path):
    """``p`` pools ``r`` and has its scale by rule."""
    source = pivots("network").evolve(format="onnx")
    request = ConvertRequest("coreml", to_format="pivot", options={"taps": ["r", "p"]})
    tapped = onnx_plugin.lepton_convert(source, request, Context(tmp_path)).model
    recipe, result = lowered("tapped", static_recipe, pivot=tapped)
    outputs = {spec.name for spec in result.model.signature.outputs}
    assert {"r", "p"} <= outputs
    stored = read_back(open_package(Path(result.model.path)).program())
    assert qdq.compare(recipe, stored, integers_of(recipe, tapped)) == []


def test_they_are_those_of_the_onnx_file(lowered, pivots):
    recipe, result = lowered("network", static_recipe)
    source = pivots("network")
    model = qdq.lower(pivots_of.load(source.path), recipe, digest=source.digest).model
    there = qdq.read_back(model)
    here = read_back(open_package(Path(result.model.path)).program())
    for name, stored in here.items():
        assert stored.scale.tobytes() == there[name].scale.tobytes(), name
        np.testing.assert_array_equal(stored.zero_point, there[name].zero_point)
        if stored.integers is not None:
            np.testing.assert_array_equal(stored.integers, there[name].integers)
    biases = [n for n in there if n.endswith("/bias")]
    constants = dict(open_package(Path(result.model.path)).program().constants())
    held = [np.asarray(c.value) for c in constants.values()]
    for name in biases:
        exact = there[name].integers.astype("f4") * there[name].scale
        assert any(a.shape == exact.shape and np.array_equal(a, exact) for a in held), name


def test_quantized_arithmetic_is_that_of_onnx(lowered, pivots, opened, feeds):
    from onnx.reference import ReferenceEvaluator

    recipe, result = lowered("network", static_recipe)
    source = pivots("network")
    model = qdq.lower(pivots_of.load(source.path), recipe, digest=source.digest).model
    feed = feeds("network", 8)
    wanted = ReferenceEvaluator(model).run(None, feed)[0]
    session = opened(result.model)
    made = session.run(feed)["logits"]
    assert session.facts["storage_precision"] == "int8"
    assert np.linalg.norm(made - wanted) < 1e-3 * np.linalg.norm(wanted)
    plain = opened(plugin_result(pivots)).run(feed)["logits"]
    assert np.linalg.norm(made - plain) > 1e-3 * np.linalg.norm(plain), "it is quantized at all"


def plugin_result(pivots):
    import tempfile

    folder = Path(tempfile.mkdtemp())
    return plugin.lepton_convert(pivots("network"), ConvertRequest("coreml"), Context(folder)).model


def test_a_table_stays_integers(lowered, pivots, opened, feeds, reference):
    recipe, result = lowered("tokens", weight_recipe)
    program = open_package(Path(result.model.path)).program()
    assert qdq.compare(recipe, read_back(program), integers_of(recipe, pivots("tokens"))) == []
    feed = feeds("tokens")
    made = opened(result.model).run(feed)["y"]
    wanted = reference(pivots("tokens"), feed)["y"]
    assert np.linalg.norm(made - wanted) < 0.02 * np.linalg.norm(wanted)


def test_the_conversion_compares_them_itself(lowered, pivots):
    from lepton_coreml._same import Numbers, check_numbers

    recipe, result = lowered("network", static_recipe)
    assert result.facts["integers"] == {
        "weights": 3, "values": 3, "equal": True, "not_stored": [],
    }  # fmt: skip
    source = pivots("network")
    model = qdq.lower(pivots_of.load(source.path), recipe, digest=source.digest).model
    wanted = Numbers.of(model)
    stem = wanted.stored["stem.weight"]
    other = stem.integers.copy()
    other.flat[0] ^= 1
    changed = {**wanted.stored, "stem.weight": replace(stem, integers=other)}
    program = open_package(Path(result.model.path)).program()
    with pytest.raises(LeptonError) as caught:
        check_numbers(program, Numbers(changed, {}), recipe)
    assert caught.value.code == "LPT-CONV-511"
    assert "stem.weight" in caught.value.cause
    given = wanted.stored["in.image"]
    asked = {**wanted.stored, "other": replace(given, scale=given.scale * 2)}
    tensors = {**recipe.tensors, "other": recipe.tensors["in.image"]}
    found = check_numbers(program, Numbers(asked, {}), replace(recipe, tensors=tensors))
    assert found["not_stored"] == ["other"]


BLOCKS = [(4, True, 64), (4, False, 64), (8, True, 64), (3, True, 100), (4, False, 100)]


@pytest.mark.parametrize(("bits", "symmetric", "inputs"), BLOCKS)
def test_blocks_are_those_of_the_rule(bits, symmetric, inputs, graphs, tmp_path, opened, lowered):
    import lepton_kernels as lk

    rng = np.random.default_rng(bits)
    weight, x = (rng.normal(size=s).astype("f4") for s in ((inputs, 24), (3, inputs)))
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", inputs])],
        [graphs.value("y", ["n", 24])],
        [graphs.weight("w", weight)],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "pivot")
    entry = BlockWeight(bits, 32, 0, symmetric, "mse")

    def make(source):
        layers = {"y": Layer("MatMul", "y", (), "w", mode="weight")}
        scheme = "int8-weight-only" if bits == 8 else "int4-weight-only"
        return Recipe(PivotId(source.digest, 21), scheme, {}, layers, blocks={"w": entry})

    recipe, result = lowered(f"blocks-{bits}-{symmetric}-{inputs}", make, pivot=pivot)
    program = open_package(Path(result.model.path)).program()
    source = qdq.lower(pivots_of.load(pivot.path), recipe, digest=pivot.digest).model
    assert qdq.compare_blocks(qdq.read_blocks(source), read_blocks(program)) == []
    found = lk.quantize_blocks(
        weight.T, 32, bits=bits, scheme="signed_max" if symmetric else "asymmetric", clip="mse"
    )
    values = lk.dequantize_blocks(found.codes, found.scale, found.zero_point, 32)
    session = opened(result.model)
    assert session.facts["storage_precision"] == ("int8" if bits == 8 else "int4")
    wanted = x @ values.T
    assert np.linalg.norm(session.run({"x": x})["y"] - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_blocks_need_ios_18(graphs, tmp_path, context):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", 64])],
        [graphs.value("y", ["n", 8])],
        [graphs.weight("w", np.ones((64, 8), "f4"))],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "pivot")
    layers = {"y": Layer("MatMul", "y", (), "w", mode="weight")}
    blocks = {"w": BlockWeight(4, 32, 0, True, "mse")}
    recipe = Recipe(PivotId(pivot.digest, 21), "int4-weight-only", {}, layers, blocks=blocks)
    path = recipes.write(recipe, tmp_path / "recipe.json")
    request = ConvertRequest("coreml", precision="int4", recipe=str(path), device="ios17")
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivot, request, context)
    assert caught.value.code == "LPT-CONV-508"
    assert "coreml:ios18" in caught.value.remedy


@pytest.mark.parametrize("device", ["ios18", "ios17"])
def test_activations_of_16_bits_are_refused_and_no_device_is_named(
    device, graphs, tmp_path, context
):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", 4])],
        [graphs.value("y", ["n", 4])],
        [graphs.weight("w", np.eye(4, dtype="f4"))],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "pivot")
    tensors = {
        "x": activation(0.03, 0, dtype="int16"),
        "y": activation(0.03, 0, dtype="int16"),
        "w": per_channel(np.eye(4, dtype="f4"), 1),
    }
    layers = {"y": Layer("MatMul", "y", ("x",), "w")}
    recipe = Recipe(PivotId(pivot.digest, 21), "int16-static", tensors, layers)
    path = recipes.write(recipe, tmp_path / "recipe.json")
    request = ConvertRequest("coreml", precision="int16", recipe=str(path), device=device)
    with pytest.raises(LeptonError) as caught:
        plugin.lepton_convert(pivot, request, context)
    assert caught.value.code == "LPT-CONV-508"
    assert "16 bits" in caught.value.message
    assert "ios18" not in caught.value.remedy
