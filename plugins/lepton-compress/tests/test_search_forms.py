"""Pruned weights and palettes as choices of a search, alone and with integers, on real runtimes."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_core as lepton
from lepton_compress._graph import Graph
from lepton_compress._job import Job
from lepton_compress._options import read_options
from lepton_compress._search_forms import forms_of, next_better, offered_by
from lepton_compress._search_space import Space
from lepton_core import recipe as recipes
from lepton_core.capabilities import Capability, Support, TargetInfo
from lepton_core.errors import OptimizeError
from lepton_core.samples import load_samples
from lepton_core.types import OptimizeRequest
from lepton_onnx import pivot, sparse

pytestmark = pytest.mark.xdist_group("search")  # one worker trains

OFFERED = {"sparsity": "50%", "pattern": "2:4", "palette": "4,2"}


def test_forms_are_named_ordered_and_fall_back_to_more_exact_ones():
    forms = forms_of(read_options(OFFERED, "mixed"))
    assert list(forms)[:7] == [
        "fp32", "int8", "int8-weight", "int4", "palette4", "palette2", "sparse50"
    ]  # fmt: skip
    assert {"int8-sparse50", "palette2-sparse2:4", "int4-sparse2:4"} <= forms.keys()
    assert len(forms) == 6 * 3
    better = {name: next_better(form, forms.values()).name for name, form in forms.items()}
    assert better["int8-sparse50"] == "int8"
    assert better["palette2"] == "palette4"
    assert (better["palette4"], better["int4"], better["int8"]) == ("fp32", "int8-weight", "fp32")
    sizes = [forms[n].stored_bits for n in ("fp32", "int8", "int8-sparse50", "palette4")]
    assert sizes == [32, 8, 5, 4]
    assert read_options({"sparsity": "auto", "palette": "auto"}, "mixed").palettes == (4, 2)


def test_forms_that_a_target_does_not_lower_are_left_out_by_name():
    forms = forms_of(read_options({"sparsity": "50%", "palette": 4}, "mixed"))
    declared = {"scheme.palette": Capability(Support.FULL)}
    left, said = offered_by(TargetInfo("t", "T", "lepton-t", capabilities=declared), forms)
    assert list(left) == ["fp32", "int8", "int8-weight", "int4", "palette4"]
    assert len(said) == 1
    assert said[0].startswith("sparse50, int8-sparse50, ")
    left, said = offered_by(TargetInfo("t", "T", "lepton-t"), forms)
    assert len(left) == 4
    assert said[1].startswith("palette4 are left out: T lowers no")


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"sparsity": "auto"}, "int8"),
        ({"sparsity": "50%,70%"}, "sparse"),
        ({"sparsity": "0.5", "scope": "global"}, "mixed"),
        ({"group": 16}, "mixed"),
        ({"prune": "wanda"}, "mixed"),
        ({"palette": "9"}, "mixed"),
        ({"sparsity": "auto", "pattern": "2:4"}, "sparse"),
        ({"sparsities": (0.5,)}, "mixed"),
        ({"analyse": True, "recover": "bias"}, "mixed"),
    ],
)
def test_options_that_say_nothing_are_refused(options, precision):
    with pytest.raises(OptimizeError) as failed:
        read_options(options, precision)
    assert failed.value.code == "LPT-OPT-015"


@pytest.fixture(scope="module")
def mlp(trained):
    return trained("mlp")


def test_each_form_is_the_same_on_all_that_lower_it(mlp, held_npz, context_of):
    """Zeros and integers, zeros and palettes, zeros alone, in one recipe."""
    pytest.importorskip("lepton_coreml", reason="lepton-coreml is not installed")
    context = context_of("space")
    job = Job(
        Graph(pivot.load(mlp.path)), mlp, OptimizeRequest("onnxruntime", precision="mixed"),
        read_options({**OFFERED, "method": "mse"}, "mixed"), context, context,
    )  # fmt: skip
    space = Space(job, load_samples(held_npz).rows(np.arange(200)))
    space.prepare()
    one, two, three = space.units
    assert space.units[three].choices == ("fp32", "int8")  # 320 values are too few for the others
    image, made = np.load(held_npz)["image"][:60], {}
    for first, second in (
        ("int8-sparse50", "palette4-sparse50"),
        ("int4-sparse2:4", "sparse50"),
        ("palette2", "int8-sparse2:4"),
    ):
        recipe, arrays = space.recipe({one: first, two: second, three: "int8"})
        assert recipe.scheme == "mixed"
        folder = context_of(first.replace(":", "-"))
        place = recipes.write(recipe, folder.workdir / "recipe.json", integers=arrays)
        for target in ("onnxruntime", "openvino", "coreml"):
            inside = context_of(f"{folder.workdir.name}-{target}")
            built = lepton.convert(mlp, target=target, recipe=str(place), context=inside).model
            with lepton.open(built, target=target) as session:
                made[target] = session.run({"image": image})["logits"]
        for target in ("openvino", "coreml"):
            gap = np.abs(made["onnxruntime"] - made[target]).max()
            assert gap < 0.05 * np.abs(made["openvino"]).max(), (target, first, second)
        for unit, form in ((one, first), (two, second)):
            weight = space.units[unit].weight
            values = space.job.graph.array(weight)
            if "sparse" not in form:
                assert weight not in recipe.pruned
                continue
            mask = sparse.unpack_mask(weight, values.shape, recipe.pruned[weight], arrays)
            assert mask.mean() == 0.5
            if weight in recipe.palettes:
                found = sparse.palette_of(weight, values.shape, recipe.palettes[weight], arrays)
                back = sparse.palette_values(*found, recipe.palettes[weight])
                assert not back[~mask].any()


def test_a_weight_for_which_int8_is_left_out_stays_float(mlp, held_npz, context):
    """Without another choice it is no unit any more, and was int8 wherever another one was."""
    job = Job(
        Graph(pivot.load(mlp.path)), mlp, OptimizeRequest("onnxruntime", precision="mixed"),
        read_options({}, "mixed"), context, context,
    )  # fmt: skip
    space = Space(job, load_samples(held_npz).rows(np.arange(20)))
    one, _, three = space.units
    space.leave_out("int8", [three], "the runtime does not load it")
    assert three not in space.units
    recipe, _ = space.recipe({one: "int8"})
    assert one in recipe.layers
    assert three not in recipe.layers
    assert recipe.kept_float[three] == "int8 is left out for its weight"


def test_a_search_takes_what_is_smaller_here_and_says_what_is_not(mlp, held_npz, context):
    """Files for ONNX Runtime hold pruned palettes and blocks whole: these are not offered."""
    options = {"recover": "none", "sparsity": 0.3, "palette": 4, "method": "mse"}
    found = lepton.optimize(
        mlp, target="onnxruntime", precision="mixed", samples=held_npz, max_drop=0.05,
        options=options, context=context,
    )  # fmt: skip
    search = found.facts["search"]
    assert search["proved"]
    assert "palette4" in search["chosen"]["chosen"].values()
    others = [p["size"] for p in search["pareto"] if "palette4" not in p["chosen"].values()]
    assert search["chosen"]["size"] < min(others)
    assert any("palette4-sparse30 is left out" in text for text in found.warnings)
    recipe = recipes.read(found.recipe)
    taken = {name for name, form in search["chosen"]["chosen"].items() if form == "palette4"}
    assert len(recipe.palettes) == len(taken)
    reasons = [recipe.kept_float[name] for name in taken]
    assert reasons == ["its weight shares 16 values"] * len(taken)


def test_the_largest_sparsity_that_a_budget_bears_is_found_and_verified(mlp, held_npz, context_of):
    from lepton_compress._sparse_options import GRID

    def searched(name, **asked):
        return lepton.optimize(
            mlp, target="onnxruntime", precision="sparse", samples=held_npz,
            context=context_of(name), **asked,
        )  # fmt: skip

    found = searched("budget", max_drop=0.05)
    search, share = found.facts["search"], found.facts["pruning"]["sparsity"]
    assert search["proved"]
    assert search["bound"] <= 0.05
    assert search["chosen"]["rows"] == search["rows"]["held_out"] > 350
    assert any(abs(share - step) < 0.01 for step in GRID)
    recipe = recipes.read(found.recipe)
    assert recipe.scheme == "sparse"
    values = {n: Graph(pivot.load(mlp.path)).array(n).size for n in recipe.pruned}
    zeros = sum(values[n] * entry.sparsity for n, entry in recipe.pruned.items())
    assert zeros / sum(values.values()) == pytest.approx(share, abs=1e-4)
    # More was tried, and lost too much on search rows.
    more = [p for p in search["pareto"] if p["size"] < search["chosen"]["size"]]
    assert all(p["drop"] > 0.05 or p["error"] > 0.15 for p in more)
    assert more
    by_size = searched("size", max_size=0.8)
    plain = search["pareto"][0]["size"]
    assert by_size.facts["search"]["chosen"]["size"] <= 0.8 * plain
    assert by_size.facts["pruning"]["sparsity"] < 0.5  # no more than it needs
    for name, asked in (("none", {}), ("unsampled", {"max_drop": 0.1, "samples": None})):
        with pytest.raises(OptimizeError) as failed:
            lepton.optimize(
                mlp, target="onnxruntime", precision="sparse", context=context_of(name),
                **{"samples": held_npz, **asked},
            )  # fmt: skip
        assert failed.value.code == "LPT-OPT-015"
    with pytest.raises(OptimizeError) as failed:
        searched("tight", max_size=0.01)
    assert failed.value.code == "LPT-OPT-031"
    assert "sparsity" in failed.value.message


def test_half_floats_share_palettes_and_are_pruned(graphs, context_of, tmp_path):
    """Tables are of the weight's type; those of float32 made a graph that is not valid."""
    weights = {"w": graphs.rand(64, 64), "v": graphs.rand(64, 8, seed=1)}
    nodes = [
        graphs.node("Cast", ["x"], ["h"], to=10), graphs.node("MatMul", ["h", "w"], ["m"]),
        graphs.node("MatMul", ["m", "v"], ["n"]), graphs.node("Cast", ["n"], ["y"], to=1),
    ]  # fmt: skip
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    model = graphs.build(nodes, half, shape=("n", 64))
    rows = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    for target in ("onnxruntime", "openvino"):
        made = lepton.optimize(
            model, target=target, precision="palette", samples=str(tmp_path / "rows.npz"),
            options={"palette": 4, "group": 16, "sparsity": 0.25},
            context=context_of(target),
        )  # fmt: skip
        recipe = recipes.read(made.recipe)
        arrays = recipes.load_arrays(recipe, made.recipe)
        assert recipe.palettes.keys() == recipe.pruned.keys() == {"w"}  # 512 values are too few
        found = sparse.palette_of("w", (64, 64), recipe.palettes["w"], arrays)
        back = sparse.palette_values(*found, recipe.palettes["w"])
        assert (back.astype(np.float16) == back).all()
        assert (back == 0).mean() >= 0.25
        with lepton.open(made.model, target=target) as session:
            actual = session.run({"x": rows})["y"]
        expected = rows @ back @ half["v"].astype(np.float32)
        assert np.abs(actual - expected).max() < 0.01 * np.abs(expected).max()
