"""Recipes of pruned weights and of palettes: text, order, checks, sidecar, older recipes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lepton_core import recipe as recipes
from lepton_core.capabilities import scheme_of
from lepton_core.errors import OptimizeError
from lepton_core.recipe import (
    Correction,
    Layer,
    PalettizedWeight,
    PivotId,
    PrunedWeight,
    Recipe,
    Rescaled,
    Tensor,
)

PLAIN = PrunedWeight("magnitude", 0.5, "w/mask")
GROUPS = PrunedWeight("wanda", 0.5, "v/mask", "row", (2, 4), 1)
TABLES = PalettizedWeight(2, "w/indices", "w/palette", 0, 3)


def example(**changes):
    made = Recipe(
        PivotId("sha256:1", 21), "palette", {}, {}, pruned={"w": PLAIN, "v": GROUPS},
        palettes={"w": TABLES},
    )  # fmt: skip
    return replace(made, **changes)


def arrays():
    return {
        "w/mask": np.uint8([0b10110101, 0b00000001]),
        "v/mask": np.uint8([0x33]),
        "w/indices": np.arange(10, dtype=np.uint8).reshape(5, 2) % 4,
        "w/palette": np.float32([[-1, 0, 1, 2], [0, 1, 2, 3]]),
    }


def code_of(call, *args, **named):
    with pytest.raises(OptimizeError) as caught:
        call(*args, **named)
    return caught.value.code


def test_text_and_back():
    recipe = example()
    text = recipes.dumps(recipe)
    assert recipes.loads(text) == recipe
    assert recipes.dumps(recipes.loads(text)) == text
    assert recipe.schema == 4
    data = json.loads(text)
    assert data["pruned"]["w"] == {
        "method": "magnitude", "sparsity": 0.5, "mask": "w/mask", "scope": "layer",
    }  # fmt: skip
    assert data["pruned"]["v"]["pattern"] == [2, 4]
    assert data["palettes"]["w"]["axis"] == 0


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        (example(), "palette2-sparse"),
        (example(pruned={}), "palette2"),
        (example(scheme="sparse", palettes={}), "sparse"),
        (example(scheme="int8-static", palettes={}), "int8-sparse"),
        (example(scheme="int8-static", palettes={}, pruned={}), "int8"),
    ],
)
def test_what_a_variant_is_called_leads_to_its_scheme(recipe, precision):
    assert recipe.precision == precision
    assert scheme_of(precision) == f"scheme.{recipe.scheme}"


def test_older_recipes_read_and_write_as_before():
    tensors = {"w": Tensor("weight", 0.5)}
    layers = {"a": Layer("MatMul", "a", (), "w", mode="weight")}
    first = Recipe(PivotId("sha256:1", 21), "int8-weight-only", tensors, layers)
    third = replace(first, corrections={"z": Correction("analytic", "b", (0.5,))})
    for recipe, schema in ((first, 1), (third, 3)):
        text = recipes.dumps(recipe)
        assert json.loads(text)["schema"] == schema
        assert '"pruned"' not in text
        assert '"palettes"' not in text
        assert recipes.dumps(recipes.loads(text)) == text


@pytest.mark.parametrize(
    ("key", "name", "change", "why"),
    [
        ("pruned", "w", {"method": "magic"}, "magnitude, wanda"),
        ("pruned", "w", {"scope": "world"}, "layer, row, global"),
        ("pruned", "w", {"sparsity": 1.5}, "share"),
        ("pruned", "w", {"pattern": [2, 4]}, "axis"),
        ("pruned", "v", {"axis": None}, "axis"),
        ("pruned", "v", {"pattern": [5, 4]}, "5:4"),
        ("pruned", "v", {"pattern": [0, 0]}, "0:0"),
        ("pruned", "v", {"mask": "w/mask"}, "two entries"),
        ("palettes", "w", {"bits": 0}, "1 to 8"),
        ("palettes", "w", {"bits": 9}, "1 to 8"),
        ("palettes", "w", {"group": None}, "axis and group"),
        ("palettes", "w", {"group": 0}, "1 or more"),
        ("palettes", "w", {"palette": "w/indices"}, "same array"),
    ],
)
def test_entries_that_contradict_themselves(key, name, change, why):
    data = json.loads(recipes.dumps(example()))
    data[key][name] |= change
    with pytest.raises(OptimizeError) as caught:
        recipes.loads(json.dumps(data))
    assert caught.value.code == "LPT-OPT-005"
    assert why in str(caught.value.cause)


def test_a_misspelt_field_is_not_ignored():
    for key in ("pruned", "palettes"):
        data = json.loads(recipes.dumps(example()))
        data[key]["w"]["bit"] = 4
        assert code_of(recipes.loads, json.dumps(data)) == "LPT-OPT-001"


def test_a_palette_is_the_only_way_in_which_a_weight_is_stored():
    twice = example(tensors={"w": Tensor("weight", 0.5)})
    assert code_of(recipes.validate, twice) == "LPT-OPT-005"
    pruned_only = example(tensors={"v": Tensor("weight", 0.5)})
    recipes.validate(pruned_only)
    rescaled = example(rescaled={"x": Rescaled("equalize", 1, (1, 2), {"w": 0}, {})})
    assert code_of(recipes.validate, rescaled) == "LPT-OPT-005"


def test_it_belongs_to_one_pivot():
    shapes = {"w": (5, 2), "v": (2, 4)}
    call = recipes.check_against
    call(example(), "sha256:1", list("wv"), shapes)
    assert code_of(call, example(), "sha256:1", list("v"), shapes) == "LPT-OPT-004"
    assert code_of(call, example(), "sha256:1", list("wv"), shapes | {"v": (2, 6)}) == "LPT-OPT-005"
    flat = {"w": PalettizedWeight(2, "i", "p", 2, 1)}
    assert code_of(call, example(palettes=flat), "sha256:1", list("wv"), shapes) == "LPT-OPT-005"


def test_the_sidecar_holds_masks_indices_and_tables(tmp_path):
    given = arrays()
    path = recipes.write(example(), tmp_path / "r.json", integers=given)
    read = recipes.load_arrays(recipes.read(path), path)
    assert read.keys() == given.keys()
    for name, array in given.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
    given.pop("v/mask")
    assert code_of(recipes.write, example(), tmp_path / "s.json", integers=given) == "LPT-OPT-006"
