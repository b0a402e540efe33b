"""Recipes of weights in few bits: text, order, checks, sidecar."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.recipe import BlockWeight, Layer, PivotId, Recipe, Tensor

BY_RULE = BlockWeight(4, 32, 0)
KEPT = BlockWeight(4, 16, 1, False, "gptq", "v/integers", "v/scale", "v/zero_point")
SCALED = BlockWeight(3, 64, 0, method="awq", input_scale="x/input_scale")


def example(**changes):
    layers = {
        "a": Layer("MatMul", "a", (), "w", mode="weight"),
        "b": Layer("Gemm", "b", (), "v", mode="weight"),
        "c": Layer("MatMul", "c", (), "u", mode="weight"),
    }
    blocks = {"w": BY_RULE, "v": KEPT, "u": SCALED}
    made = Recipe(PivotId("sha256:1", 21), "int4-weight-only", {}, layers, blocks=blocks)
    return replace(made, **changes)


def arrays():
    return {
        "v/integers": np.arange(40, dtype=np.uint8).reshape(2, 20) % 16,
        "v/scale": np.float32([[1, 2], [3, 4]]),
        "v/zero_point": np.uint8([[7, 8], [9, 10]]),
        "x/input_scale": np.float32([0.5, 2.0]),
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
    assert (recipe.schema, recipe.precision) == (2, "int4")
    assert len([line for line in text.splitlines() if '"bits"' in line]) == 3
    data = json.loads(text)["blocks"]
    assert data["w"] == {"bits": 4, "block": 32, "axis": 0, "symmetric": True, "method": "mse"}
    assert data["v"]["symmetric"] is False


def test_a_recipe_without_blocks_is_the_text_of_the_first_layout():
    tensors = {"w": Tensor("weight", 0.5)}
    layers = {"a": Layer("MatMul", "a", (), "w", mode="weight")}
    text = recipes.dumps(Recipe(PivotId("sha256:1", 21), "int8-weight-only", tensors, layers))
    assert '"blocks"' not in text
    assert json.loads(text)["schema"] == 1
    assert recipes.dumps(recipes.loads(text)) == text


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("w", {"bits": 1}, "2 to 8"),
        ("w", {"bits": 9}, "2 to 8"),
        ("w", {"block": 24}, "powers of two"),
        ("w", {"block": 8}, "powers of two"),
        ("w", {"block": 0}, "powers of two"),
        ("w", {"axis": 2}, "axis"),
        ("w", {"method": "magic"}, "rtn, mse, awq, gptq"),
        ("w", {"method": "gptq"}, "sidecar"),
        ("w", {"method": "awq"}, "input_scale"),
        ("w", {"input_scale": "s"}, "awq"),
        ("w", {"integers": "i"}, "scale"),
        ("v", {"symmetric": True}, "zero_point"),
        ("v", {"zero_point": None}, "zero_point"),
    ],
)
def test_entries_that_contradict_themselves(name, change, why):
    data = json.loads(recipes.dumps(example()))
    data["blocks"][name] |= change
    with pytest.raises(OptimizeError) as caught:
        recipes.loads(json.dumps(data))
    assert caught.value.code == "LPT-OPT-005"
    assert why in str(caught.value.cause)


def test_a_misspelt_field_is_not_ignored():
    data = json.loads(recipes.dumps(example()))
    data["blocks"]["w"]["bit"] = 4
    assert code_of(recipes.loads, json.dumps(data)) == "LPT-OPT-001"


def test_a_weight_is_stored_in_one_way_and_read_by_products():
    twice = example(tensors={"w": Tensor("weight", 0.5)})
    assert code_of(recipes.validate, twice) == "LPT-OPT-005"
    for wrong in (Layer("Conv", "a", (), "w", mode="weight"), Layer("MatMul", "a", (), "w")):
        layers = {**example().layers, "a": wrong}
        assert code_of(recipes.validate, example(layers=layers)) == "LPT-OPT-005"


def test_it_belongs_to_one_pivot():
    shapes = {"w": (32, 3), "v": (2, 20), "u": (2, 4)}
    call = recipes.check_against
    call(example(), "sha256:1", list("wvuabc"), shapes)
    assert code_of(call, example(), "sha256:1", list("vuabc"), shapes) == "LPT-OPT-004"
    for shape in ((32, 3, 1), (4,)):
        odd = {**shapes, "w": shape}
        assert code_of(call, example(), "sha256:1", list("wvuabc"), odd) == "LPT-OPT-005"


def test_the_sidecar_holds_three_dtypes(tmp_path):
    given = arrays()
    path = recipes.write(example(), tmp_path / "r.json", integers=given)
    read = recipes.load_arrays(recipes.read(path), path)
    assert read.keys() == given.keys()
    for name, array in given.items():
        assert (read[name].dtype, read[name].tolist()) == (array.dtype, array.tolist())
    del given["v/scale"]
    assert code_of(recipes.write, example(), path, integers=given) == "LPT-OPT-006"


def test_others_read_the_sidecar(tmp_path):
    torch_free = pytest.importorskip("safetensors.numpy")
    path = recipes.write(example(), tmp_path / "r.json", integers=arrays())
    found = torch_free.load_file(path.with_suffix(".safetensors"))
    for name, array in arrays().items():
        assert np.array_equal(found[name], array)


def test_an_array_of_another_dtype_is_refused(tmp_path):
    path = recipes.write(example(), tmp_path / "r.json", integers=arrays())
    swapped = replace(KEPT, integers="v/scale", scale="v/integers")
    other = replace(recipes.read(path), blocks={"w": BY_RULE, "v": swapped, "u": SCALED})
    assert code_of(recipes.load_arrays, other, path) == "LPT-OPT-006"
