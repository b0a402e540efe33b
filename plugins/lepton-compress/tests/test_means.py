"""Means as products: no result is a tie, and what cannot be a product stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from lepton_compress._graph import Graph
from lepton_compress._job import Job
from lepton_compress._options import read_options
from lepton_compress._recover_recipe import Recovery
from lepton_core import hooks
from lepton_core import recipe as recipes
from lepton_core.bisecting._plan import recipe_for
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Rescaled
from lepton_core.samples import load_samples
from lepton_core.types import OpenRequest, OptimizeRequest
from lepton_onnx import pivot, qdq


@pytest.fixture
def pooled(graphs):
    """Return what builds a pivot: conv, ReLU, a mean with these attributes, conv, matrix."""

    def make(op="AveragePool", **attributes):
        node, rand = graphs.node, graphs.rand
        nodes = [
            graphs.conv("x", "w1", "b1", "c"), node("Relu", ["c"], ["r"]),
            node(op, ["r"], ["p"], **attributes), graphs.conv("p", "w2", "b2", "d"),
            node("GlobalMaxPool", ["d"], ["g"]), node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "wg", "bg"], ["y"]),
        ]  # fmt: skip
        weights = {name: graphs.convs[name] for name in ("w1", "b1", "w2", "b2")}
        weights |= {"wg": rand(8, 3), "bg": rand(3)}
        return graphs.build(nodes, weights)

    return make


TWO = {"kernel_shape": [2, 2], "strides": [2, 2]}
SAMPLES = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "attributes", "changes"),
    [
        ("AveragePool", TWO, True),
        ("AveragePool", {**TWO, "pads": [1, 1, 1, 1], "count_include_pad": 1}, True),
        ("AveragePool", {**TWO, "pads": [1, 1, 1, 1]}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, False),
        ("AveragePool", {**TWO, "auto_pad": "SAME_UPPER"}, False),
        ("AveragePool", {"kernel_shape": [1, 1]}, False),
        ("GlobalAveragePool", {}, True),
        ("MaxPool", TWO, False),
    ],
)
def test_a_mean_is_a_product_where_every_window_counts_the_same(pooled, op, attributes, changes):
    before = pivot.load(pooled(op, **attributes).path)
    after, changed = qdq.means_as_products(before)
    assert changed == (("p",) if changes else ())
    feed = {"x": SAMPLES[:2]}
    plain, other = (
        onnx.reference.ReferenceEvaluator(m).run(None, feed)[0] for m in (before, after)
    )
    assert np.abs(plain - other).max() <= (4e-4 if changes else 0) * np.abs(plain).max()
    assert qdq.means_as_products(before, [op])[1] == ()


def test_a_recipe_of_products_gives_the_integers_that_one_computes_by_hand(
    pooled, context, tmp_path
):
    base = pooled(**TWO)
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    asked = OptimizeRequest(
        "onnxruntime", samples=str(tmp_path / "x.npz"), options={"means": "product"}
    )
    made = hooks.default().optimize(base, asked, context)
    recipe = recipes.read(made.recipe)
    layer, weight = recipe.layers["p"], recipe.tensors["p/mean"]
    assert (layer.op, layer.inputs, layer.weight) == ("Conv", ("r",), "p/mean")
    assert weight.scales == pytest.approx([(1 - 2**-12) / (127 * 4)] * 8)
    assert recipe.tensors["p"].scale != recipe.tensors["r"].scale
    lowered = qdq.lower(
        pivot.load(base.path), recipe, digest=base.digest, float_outputs=False
    ).model
    both = ["r/int8", "p/int8"]
    lowered.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in both
    )
    one, two = onnx.reference.ReferenceEvaluator(lowered).run(both, {"x": SAMPLES})
    units = (one.astype(int) - recipe.tensors["r"].zero_point).reshape(16, 8, 8, 2, 8, 2)
    factor = weight.scales[0] * recipe.tensors["r"].scale / recipe.tensors["p"].scale
    exact = 127 * units.sum((3, 5)) * factor
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
    wanted = np.clip(np.rint(exact) + recipe.tensors["p"].zero_point, -128, 127)
    assert np.array_equal(two, wanted)
    with context.hooks.open(made.model, OpenRequest("onnxruntime"), context) as session:
        assert next(iter(session.run({"x": SAMPLES}).values())).shape == (16, 3)


def test_a_part_of_the_pivot_keeps_the_weight_of_its_mean(pooled, context, tmp_path):
    base = pooled(**TWO)
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    asked = OptimizeRequest(
        "onnxruntime",
        samples=str(tmp_path / "x.npz"),
        options={"means": "product", "recipe_only": True},
    )
    recipe = recipes.read(hooks.default().optimize(base, asked, context).recipe)
    part = recipe_for(recipe, "sha256:new", {"r", "r/fed", "p"}, {"r"})
    assert part.layers["p"].weight in part.tensors
    assert "p/mean" not in recipe_for(recipe, "d", {"d", "p/fed", "w2", "b2"}, {"p"}).tensors


def test_a_mean_that_stays_float_keeps_its_part_of_a_rescaling(pooled, context, tmp_path):
    """Channels are equalized through the weight of a mean; where a budget kept it float, it was
    gone, and the recipe did not fit its pivot any more."""
    base = pooled(**TWO)
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    model, _ = qdq.means_as_products(pivot.load(base.path))
    asked = OptimizeRequest("onnxruntime")
    job = Job(Graph(model), base, asked, read_options({"means": "product"}), context, context)
    ups = Rescaled("equalize", 1, (2,) * 8, {"w1": 0, "b1": 0}, {"p/mean": 0})
    downs = Rescaled("equalize", 1, (-3,) * 8, {"p/mean": 0}, {"w2": 1})
    made = []
    for recovery, keep in (({}, ()), ({"r": ups, "p": downs}, ()), ({"r": ups, "p": downs}, "p")):
        samples = load_samples(str(tmp_path / "x.npz"))
        recipe, _ = Recovery(recovery).recipe(job, samples, "minmax", keep)
        assert ("p" in recipe.layers) == (not keep)
        lowered = qdq.lower(pivot.load(base.path), recipe, digest=base.digest).model
        made.append(onnx.reference.ReferenceEvaluator(lowered).run(None, {"x": SAMPLES})[0])
    for other in made[1:]:
        assert np.abs(made[0] - other).max() < 0.05 * np.abs(made[0]).max()


@pytest.mark.parametrize("options", [{}, {"scheme": "dynamic"}, {"scheme": "weight-only"}])
def test_products_are_of_static_int8(pooled, context, tmp_path, options):
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    samples = str(tmp_path / "x.npz") if options else None
    asked = OptimizeRequest("onnxruntime", samples=samples, options={"means": "product", **options})
    with pytest.raises(OptimizeError, match="static") as caught:
        hooks.default().optimize(pooled(**TWO), asked, context)
    assert caught.value.code == "LPT-OPT-015"


def test_means_are_pools_or_products():
    assert read_options({}).means == "pool"
    with pytest.raises(OptimizeError, match="floats"):
        read_options({"means": "floats"})
    for precision in ("int4", "mixed", "sparse"):
        with pytest.raises(OptimizeError, match="no option"):
            read_options({"means": "product"}, precision)


def test_a_model_without_means_is_warned_of(pooled, context, tmp_path):
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    asked = OptimizeRequest(
        "onnxruntime",
        samples=str(tmp_path / "x.npz"),
        options={"means": "product", "recipe_only": True},
    )
    made = hooks.default().optimize(pooled("MaxPool", **TWO), asked, context)
    assert any("No mean" in text for text in made.warnings)
    assert Path(made.recipe).is_file()
