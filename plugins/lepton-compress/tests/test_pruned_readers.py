"""Pruning and palettes where several operators read one value, or one weight."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_core as lepton
from lepton_compress._graph import Graph
from lepton_compress._options import read_options
from lepton_compress._powers import input_powers
from lepton_compress._prunable import find_sites
from lepton_compress._recover_sites import reader_sites
from lepton_compress._select import select
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.samples import load_samples
from lepton_onnx import pivot


def saved(folder, **arrays):
    np.savez(folder / "samples.npz", **arrays)
    return str(folder / "samples.npz")


def graph_of(model):
    return Graph(pivot.load(model.path))


@pytest.fixture
def crossed(graphs):
    """Return a function of two lengths: a Conv and a MatMul that read ``x`` along axes 1 and 2."""

    def make(channels, last):
        nodes = [graphs.node("Conv", ["x", "wc"], ["c"]), graphs.node("MatMul", ["x", "wm"], ["m"])]
        weights = {"wc": graphs.rand(32, channels, 1), "wm": graphs.rand(last, 32, seed=1)}
        return graphs.build(nodes, weights, shape=("n", channels, last), outputs=("c", "m"))

    return make


@pytest.mark.parametrize("last", [40, 64])
def test_a_value_is_observed_along_each_axis_that_is_read(crossed, context, tmp_path, last):
    model = crossed(64, last)
    rows = np.random.default_rng(0).standard_normal((6, 64, last)).astype(np.float32)
    rows *= np.linspace(0.1, 4, 64, dtype=np.float32)[:, None]
    graph = graph_of(model)
    sites, _ = find_sites(graph, ())
    samples = load_samples(saved(tmp_path, x=rows))
    powers = input_powers(graph, sites, samples, context, read_options({}))
    assert np.allclose(powers.vector("wc"), (rows.astype(np.float64) ** 2).mean((0, 2)))
    assert np.allclose(powers.vector("wm"), (rows.astype(np.float64) ** 2).mean((0, 1)))


@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_is_scored_by_the_inputs_of_all_its_products(graphs, context, tmp_path, turned):
    """The first input alone would prune what the second, which is larger, multiplies most."""
    second = (
        graphs.node("Gemm", ["b", "w"], ["two"], transB=1) if turned
        else graphs.node("MatMul", ["b", "w"], ["two"])
    )  # fmt: skip
    nodes = [
        graphs.node("Mul", ["x", "sa"], ["a"]), graphs.node("Mul", ["x", "sb"], ["b"]),
        graphs.node("MatMul", ["a", "w"], ["one"]), second,
    ]  # fmt: skip
    scale = np.linspace(0.1, 1, 64, dtype=np.float32)
    weights = {"w": graphs.rand(64, 64), "sa": scale, "sb": 3 * scale[::-1].copy()}
    model = graphs.build(nodes, weights, shape=("n", 64), outputs=("one", "two"))
    rows = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    options = {"sparsity": 0.5, "prune": "wanda", "scope": "layer"}
    made = lepton.optimize(
        model, target="onnxruntime", precision="sparse", options=options,
        samples=saved(tmp_path, x=rows[:2]), context=context,
    )  # fmt: skip
    recipe = recipes.read(made.recipe)
    packed = recipes.load_arrays(recipe, made.recipe)[recipe.pruned["w"].mask]
    mask = np.unpackbits(packed, bitorder="little").reshape(64, 64).astype(bool)
    a, b = rows[:2] * weights["sa"], rows[:2] * weights["sb"]
    one, two = ((v.astype(np.float64) ** 2).mean(0) for v in (a, b))
    power = one[:, None] + (two[None, :] if turned else two[:, None])
    scores = np.abs(weights["w"]) * np.sqrt(power / 2)
    assert (mask.sum() == mask.size // 2) and scores[mask].min() >= 0.9999 * scores[~mask].max()
    alone = np.abs(weights["w"]) * np.sqrt(one)[:, None]
    assert alone[mask].min() < alone[~mask].max()


def test_wanda_and_biases_take_a_value_that_is_read_along_two_axes(crossed, context_of, tmp_path):
    rows = np.random.default_rng(0).standard_normal((12, 64, 40)).astype(np.float32)
    for precision, options in (
        ("sparse", {"sparsity": 0.5, "prune": "wanda"}),
        ("palette", {}),
        ("int8", {"recover": "smooth,bias"}),
    ):
        made = lepton.optimize(
            crossed(64, 40), target="onnxruntime", precision=precision, options=options,
            samples=saved(tmp_path, x=rows), context=context_of(precision),
        )  # fmt: skip
        assert made.recipe is not None


def test_channels_are_not_rescaled_where_products_disagree_which_they_are(crossed):
    graph = graph_of(crossed(64, 64))
    assert not reader_sites(graph, select(graph).layers)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_pruned_integers_of_a_weight_that_two_products_read_run(
    graphs, context_of, tmp_path, target
):
    nodes = [graphs.node("MatMul", ["x", "w"], ["a"]), graphs.node("Relu", ["a"], ["r"]),
             graphs.node("MatMul", ["r", "w"], ["y"])]  # fmt: skip
    model = graphs.build(nodes, {"w": graphs.rand(96, 96)}, shape=("n", 96))
    rows = np.random.default_rng(0).standard_normal((12, 96)).astype(np.float32)
    made = lepton.optimize(
        model, target=target, precision="int8", samples=saved(tmp_path, x=rows),
        context=context_of("made"), options={"sparsity": 0.9},
    )  # fmt: skip
    values = graph_of(model).array("w")
    kept = np.where(np.abs(values) >= np.sort(np.abs(values), axis=None)[-922], values, 0)
    wanted = np.maximum(rows @ kept, 0) @ kept
    with lepton.open(made.model, target=target) as session:
        found = session.run({"x": rows})["y"]
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["second", "r", "Gather", "w"])
def test_a_weight_stays_whole_if_one_of_its_readers_is_asked_for(graphs, context, name):
    """Also where that is a lookup, which is not pruned itself."""
    nodes = [
        graphs.node("Cast", ["x"], ["ids"], to=7),
        graphs.node("MatMul", ["x", "w"], ["a"], name="first"),
        graphs.node("MatMul", ["a", "w"], ["r"], name="second"),
        graphs.node("Gather", ["w", "ids"], ["rows"], name="lookup"),
        graphs.node("MatMul", ["r", "v"], ["y"], name="head"),
    ]  # fmt: skip
    weights = {"w": graphs.rand(40, 40), "v": graphs.rand(40, 40, seed=1)}
    model = graphs.build(nodes, weights, shape=("n", 40), outputs=("y", "rows"))
    result = lepton.optimize(
        model, target="onnxruntime", precision="sparse", context=context,
        options={"sparsity": 0.5, "keep": [name]},
    )  # fmt: skip
    assert recipes.read(result.recipe).pruned.keys() == {"v"}
    assert result.facts["pruning"]["whole"] == {"w": "asked for"}
    assert not any("is named" in text for text in result.warnings)


@pytest.mark.parametrize("precision", ["sparse", "int8"])
def test_names_to_keep_that_nothing_has_are_warned_of(graphs, context, precision):
    nodes = [graphs.node("MatMul", ["x", "w"], ["a"]), graphs.node("MatMul", ["a", "v"], ["y"])]
    weights = {"w": graphs.rand(40, 40), "v": graphs.rand(40, 40, seed=1)}
    model = graphs.build(nodes, weights, shape=("n", 40))
    options = {"keep": "a,w,nothing,Conv"} | ({"sparsity": 0.5} if precision == "sparse" else {})
    made = lepton.optimize(
        model, target="onnxruntime", precision=precision, options=options, context=context
    )
    odd = ["'nothing'", "'Conv'"] if precision == "sparse" else ["'w'", "'nothing'", "'Conv'"]
    assert f"Nothing that could be kept is named {', '.join(odd)}." in made.warnings


def two_products(graphs, **factors):
    nodes = [graphs.node("MatMul", ["x", "w"], ["a"]), graphs.node("MatMul", ["a", "v"], ["y"])]
    weights = {"w": graphs.rand(40, 40), "v": graphs.rand(40, 40, seed=1)}
    weights = {name: values * np.float32(factors.get(name, 1)) for name, values in weights.items()}
    return graphs.build(nodes, weights, shape=("n", 40))


def test_a_share_that_rounds_to_no_value_prunes_nothing(graphs, context):
    with pytest.raises(OptimizeError, match="prunes nothing") as failed:
        lepton.optimize(
            two_products(graphs), target="onnxruntime", precision="sparse", context=context,
            options={"sparsity": 0.0001},
        )  # fmt: skip
    assert failed.value.code == "LPT-OPT-012"


def test_weights_that_become_all_zero_or_lose_nothing_are_named(graphs, context):
    made = lepton.optimize(
        two_products(graphs, w=1e-6), target="onnxruntime", precision="sparse", context=context,
        options={"sparsity": 0.5, "scope": "global"},
    )  # fmt: skip
    assert recipes.read(made.recipe).pruned.keys() == {"w"}
    assert made.facts["pruning"]["whole"] == {"v": "its share rounds to no value"}
    assert any("Every value of 'w' is 0" in text for text in made.warnings)


def test_a_recipe_takes_no_options_samples_or_budget(graphs, context_of, tmp_path):
    model = two_products(graphs)
    made = lepton.optimize(
        model, target="onnxruntime", precision="sparse", context=context_of("made"),
        options={"sparsity": 0.5},
    )  # fmt: skip
    for number, (given, says) in enumerate(
        [
            ({"options": {"sparsity": 0.9}}, "the option sparsity"),
            ({"options": {"keep": "w"}, "precision": "sparse"}, "the option keep"),
            ({"samples": "rows.npz"}, "samples"),
            ({"max_drop": 0.1}, "max_drop"),
        ]
    ):
        with pytest.raises(OptimizeError, match=says) as failed:
            lepton.optimize(model, target="onnxruntime", recipe=made.recipe,
                            context=context_of(f"no-{number}"), **given)  # fmt: skip
        assert failed.value.code == "LPT-OPT-037"
    again = lepton.optimize(
        model, target="onnxruntime", recipe=made.recipe, precision="sparse",
        options={"sparsity": None}, context=context_of("again"),
    )  # fmt: skip
    assert recipes.read(again.recipe).digest == recipes.read(made.recipe).digest


def test_palettes_that_were_weighed_say_by_what(graphs, context, tmp_path):
    """Also beside weights that Wanda's scores pruned."""
    rows = np.random.default_rng(0).standard_normal((60, 40)) * np.geomspace(0.01, 100, 40)
    made = lepton.optimize(
        two_products(graphs), target="onnxruntime", precision="palette", context=context,
        options={"palette": 2, "sparsity": 0.3, "prune": "wanda"},
        samples=saved(tmp_path, x=rows.astype(np.float32)),
    )  # fmt: skip
    weighed = made.facts["palettes"]["weighed"]
    assert weighed
    assert recipes.read(made.recipe).calibration.estimator == "power"
