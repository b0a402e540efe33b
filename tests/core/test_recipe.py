"""Recipes as data: text, order, checks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Layer, PivotId, Recipe, Tensor


def example(**changes):
    tensors = {
        "x": Tensor("activation", 0.1, -128, observed=(0.0, 25.5)),
        "w": Tensor("weight", (0.5, 0.25), axis=0, estimator="absmax"),
        "y": Tensor("activation", 0.2, 3, optional=True),
    }
    layers = {"c": Layer("Conv", "y", ("x",), "w", "b", ("y",))}
    made = Recipe(PivotId("sha256:1", 21), "int8-static", tensors, layers, {"z": "no rule"})
    return replace(made, **changes)


def code_of(call, *args):
    with pytest.raises(OptimizeError) as caught:
        call(*args)
    return caught.value.code


def test_text_and_back(tmp_path):
    recipe = example(requires={"cpu": {"any": ["vnni"]}}, notes=("one", "two"))
    text = recipes.dumps(recipe)
    assert recipes.loads(text) == recipe
    assert recipes.dumps(recipes.loads(text)) == text
    assert recipe.digest.startswith("sha256:")
    assert len([line for line in text.splitlines() if '"kind"' in line]) == 3
    path = recipes.write(recipe, tmp_path / "r.json")
    assert recipes.read(path) == recipe
    assert json.loads(text)["tensors"]["w"]["axis"] == 0


def test_order_is_kept_and_nothing_empty_is_written():
    data = json.loads(recipes.dumps(example()))
    assert list(data)[:3] == ["schema", "rules", "written_by"]
    assert "same_as" not in data["tensors"]["x"]
    assert data["tensors"]["y"]["optional"] is True


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": 5}, "LPT-OPT-002"),
        ({"rules": 99}, "LPT-OPT-002"),
        ({"rules": "1"}, "LPT-OPT-002"),
        ({"colour": 1}, "LPT-OPT-001"),
        ({"pivot": {"digest": 3, "opset": 21}}, "LPT-OPT-001"),
        ({"tensors": []}, "LPT-OPT-001"),
        ({"scheme": "int3"}, "LPT-OPT-005"),
    ],
)
def test_files_that_are_no_recipes(change, code):
    data = json.loads(recipes.dumps(example())) | change
    assert code_of(recipes.loads, json.dumps(data)) == code


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', "\x00"])
def test_texts_that_are_no_recipes(text):
    assert code_of(recipes.loads, text) == "LPT-OPT-001"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", {"scale": 0.0}),
        ("x", {"scale": -1.0}),
        ("x", {"scale": 1e-40}),
        ("x", {"scale": 1e39}),
        ("x", {"zero_point": 128}),
        ("x", {"dtype": "int4"}),
        ("x", {"rounding": "up"}),
        ("x", {"kind": "thing"}),
        ("x", {"scale": [0.1, 0.2], "axis": 0}),
        ("x", {"same_as": "nobody"}),
        ("x", {"same_as": "y"}),
        ("x", {"integers": "mine"}),
        ("w", {"zero_point": 1}),
        ("w", {"axis": None}),
        ("w", {"scale": []}),
    ],
)
def test_entries_that_contradict_the_rules(name, change):
    data = json.loads(recipes.dumps(example()))
    data["tensors"][name] |= change
    assert code_of(recipes.loads, json.dumps(data)) == "LPT-OPT-005"


def test_a_misspelt_field_is_not_ignored():
    data = json.loads(recipes.dumps(example()))
    data["tensors"]["x"]["zeropoint"] = 3
    with pytest.raises(OptimizeError) as caught:
        recipes.loads(json.dumps(data))
    assert caught.value.code == "LPT-OPT-001"
    assert "zero_point" in str(caught.value)


def test_a_layer_needs_its_entries():
    data = json.loads(recipes.dumps(example()))
    del data["tensors"]["x"]
    assert code_of(recipes.loads, json.dumps(data)) == "LPT-OPT-005"


@pytest.mark.parametrize(
    ("digest", "values", "shape", "code"),
    [
        ("sha256:2", "xwybcz", (2, 4), "LPT-OPT-003"),
        ("sha256:1", "xwybz", (2, 4), "LPT-OPT-004"),
        ("sha256:1", "xwybcz", (3, 4), "LPT-OPT-005"),
    ],
)
def test_it_belongs_to_one_pivot(digest, values, shape, code):
    call = recipes.check_against
    assert code_of(call, example(), digest, list(values), {"w": shape}) == code
    call(example(), "sha256:1", list("xwybcz"), {"w": (2, 4)})


def test_the_sidecar(tmp_path):
    entry = replace(example().tensors["w"], integers="mine")
    recipe = example(tensors={**example().tensors, "w": entry})
    codes = np.arange(8, dtype=np.int8).reshape(2, 4)
    path = recipes.write(recipe, tmp_path / "r.json", integers={"mine": codes})
    read = recipes.read(path)
    assert read.sidecar
    assert np.array_equal(recipes.load_integers(read, path)["w"], codes)
    other = tmp_path / "other.json"
    recipes.write(recipe, other, integers={"mine": codes + np.int8(1)})
    (tmp_path / "r.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    assert code_of(recipes.load_integers, read, path) == "LPT-OPT-006"
    loose = replace(read, sidecar=None)
    whole = (tmp_path / "other.safetensors").read_bytes()
    for cut in range(len(whole)):
        (tmp_path / "r.safetensors").write_bytes(whole[:cut])
        assert code_of(recipes.load_integers, loose, path) == "LPT-OPT-006"
    (tmp_path / "r.safetensors").unlink()
    assert code_of(recipes.load_integers, read, path) == "LPT-OPT-006"
    assert code_of(recipes.write, recipe, path) == "LPT-OPT-006"


def test_a_file_that_is_missing(tmp_path):
    assert code_of(recipes.read, tmp_path / "none.json") == "LPT-OPT-001"


def test_importing_it_imports_no_numpy():
    code = "import sys, lepton_core.recipe; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
