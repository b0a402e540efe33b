"""Weights in every compressed form, with what a recipe says of each."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import lepton_kernels as lk
from lepton_core import recipe as recipes
from lepton_core.recipe import (
    BlockWeight,
    Layer,
    PalettizedWeight,
    PivotId,
    PrunedWeight,
    Recipe,
    Tensor,
)
from lepton_onnx import qdq
from lepton_onnx.sparse import pack_mask, palette_values

RNG = np.random.default_rng(17)
ROWS, COLUMNS, GROUP = 96, 128, 16
FIELDS = ("tensors", "layers", "blocks", "pruned", "palettes")


def half(array):
    with np.errstate(over="ignore"):
        return np.asarray(array).astype("f2").astype("f4")


def Weight(weight, values=None, parts=None, arrays=None):
    """A weight, what a recipe says about it, and the values that a float16 program has of it."""
    return SimpleNamespace(weight=weight, values=values, parts=parts or {}, arrays=arrays or {})


def drawn(size=0.25):
    return (RNG.normal(size=(ROWS, COLUMNS)) * size).astype("f4")


def palette(name, bits, group=None, largest=None):
    one = Weight(drawn())
    found = lk.palettize(one.weight, bits, axis=group and 1, group_size=group)
    tables = found.palette.reshape(-1, 2**bits)
    if largest is None:
        tables[0, 7] = 1e-9  # 0 in float16; coremltools' own pass would lift it to 6e-8
    else:
        tables[0, -1] = largest
    entry = PalettizedWeight(bits, f"{name}/indices", f"{name}/palette", group and 1, group)
    one.arrays = {entry.indices: found.indices, entry.palette: tables}
    one.values = half(palette_values(found.indices, tables, entry))
    one.parts = {"palettes": {name: entry}}
    return one


def pruned(name, weight):
    mask = np.abs(weight) >= np.median(np.abs(weight))
    entry = PrunedWeight("magnitude", float(1 - mask.mean()), f"{name}/mask")
    return mask, {"pruned": {name: entry}}, {f"{name}/mask": pack_mask(mask)}


def sparse(name):
    one = Weight(drawn())
    mask, one.parts, one.arrays = pruned(name, one.weight)
    one.values = half(np.where(mask, one.weight, np.float32(0)))
    return one


def sparse_palette(name):
    one = palette(name, 4, GROUP)
    tables, indices = one.arrays[f"{name}/palette"], one.arrays[f"{name}/indices"]
    mask, parts, arrays = pruned(name, one.weight)
    nearest = np.abs(tables).argmin(1)
    tables[np.arange(len(tables)), nearest] = 0
    zero = nearest[np.arange(COLUMNS) // GROUP]
    one.arrays[f"{name}/indices"] = np.where(mask, indices, zero).astype(np.uint8)
    entry = one.parts["palettes"][name]
    one.values = half(palette_values(one.arrays[entry.indices], tables, entry))
    one.parts |= parts
    one.arrays |= arrays
    return one


def integers(name, size=0.25, masked=False):
    one = Weight(drawn(size))
    kept = one.weight
    if masked:
        mask, one.parts, one.arrays = pruned(name, kept)
        kept = np.where(mask, kept, np.float32(0))
    scale = np.abs(kept).max(axis=0) / np.float32(127)
    tensor = Tensor("weight", tuple(map(float, scale)), axis=1, estimator="absmax")
    one.values = half(qdq.weight_integers(kept, tensor) * half(scale))
    one.parts |= {"tensors": {name: tensor}, "layers": layer_of(name)}
    return one


def blocks(name, bits=4):
    entry = BlockWeight(bits, 32, 0, True, "mse")
    return Weight(drawn(), None, {"blocks": {name: entry}, "layers": layer_of(name)})


def layer_of(name):
    return {f"{name}_y": Layer("MatMul", f"{name}_y", (), name, mode="weight")}


def graph_of(graphs, weights):
    """Return a graph with a product, and an output, for each weight."""
    return graphs.model(
        [graphs.node("MatMul", ["x", name], [f"{name}_y"]) for name in weights],
        [graphs.value("x", ["n", ROWS])],
        [graphs.value(f"{name}_y", ["n", COLUMNS]) for name in weights],
        [graphs.weight(name, one.weight) for name, one in weights.items()],
    )


def recipe_of(pivot, weights, path, scheme="mixed"):
    """Write the recipe of some weights; returns it and its place."""
    parts = {
        key: {k: v for one in weights.values() for k, v in one.parts.get(key, {}).items()}
        for key in FIELDS
    }
    arrays = {k: v for one in weights.values() for k, v in one.arrays.items()}
    recipe = Recipe(PivotId(pivot.digest, 21), scheme, **parts)
    return recipe, str(recipes.write(recipe, path, integers=arrays))


SCHEMES = {
    "palette4": ("palette", {"palette": lambda: palette("palette", 4, GROUP)}),
    "sparse": ("sparse", {"sparse": lambda: sparse("sparse")}),
    "int8-weight": ("int8-weight-only", {"int8": lambda: blocks("int8", 8)}),
    "int4": ("int4-weight-only", {"int4": lambda: blocks("int4")}),
}
"""Scheme and weights of a recipe by the precision that it gives; one more has all of them."""
SCHEMES["mixed"] = ("mixed", {k: v for _, own in SCHEMES.values() for k, v in own.items()})
