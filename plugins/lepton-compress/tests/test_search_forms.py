"""Pruned weights and palettes as choices of a search, alone and with integers, on real runtimes."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_core as lepton
from lepton_compress._graph import Graph
from lepton_compress._job import Job
from lepton_compress._options import read_options
from lepton_compress._search_forms import forms_of, next_better
from lepton_compress._search_space import Space
from lepton_core import recipe as recipes
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


def test_each_form_is_the_same_on_both_runtimes(mlp, held_npz, context_of):
    """Zeros and integers, zeros and palettes, zeros alone, in one recipe."""
    context = context_of("space")
    job = Job(
        Graph(pivot.load(mlp.path)), mlp, OptimizeRequest("onnxruntime", precision="mixed"),
        read_options({**OFFERED, "method": "mse"}, "mixed"), context, context,
    )  # fmt: skip
    space = Space(job, load_samples(held_npz).rows(np.arange(200)))
    space.prepare()
    one, two, three = space.units
    assert space.units[three].choices == ("fp32", "int8")  # 320 values are too few for the others
    image, made = np.load(held_npz)["image"][:100], {}
    for first, second in (
        ("int8-sparse50", "palette4-sparse50"),
        ("int4-sparse2:4", "sparse50"),
        ("palette2", "int8-sparse2:4"),
    ):
        recipe, arrays = space.recipe({one: first, two: second, three: "int8"})
        assert recipe.scheme == "mixed"
        folder = context_of(first.replace(":", "-"))
        place = recipes.write(recipe, folder.workdir / "recipe.json", integers=arrays)
        for target in ("onnxruntime", "openvino"):
            inside = context_of(f"{folder.workdir.name}-{target}")
            built = lepton.convert(mlp, target=target, recipe=str(place), context=inside).model
            with lepton.open(built, target=target) as session:
                made[target] = session.run({"image": image})["logits"]
        gap = np.abs(made["onnxruntime"] - made["openvino"]).max()
        assert gap < 0.05 * np.abs(made["openvino"]).max()
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
