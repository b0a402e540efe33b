"""Checking a recipe: against its own rules, and against the pivot that it is for."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

from lepton_core.errors import OptimizeError
from lepton_core.recipe._types import KINDS, SCHEMES, Recipe, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SMALLEST = 1.1754943508222875e-38
"""Smallest normal float32; kernels treat smaller scales as zero."""
_LARGEST = 3.4028234663852886e38
_MODES = ("static", "dynamic", "weight")
_PRODUCTS = ("MatMul", "Gemm")


def validate(recipe: Recipe, name: str = "the recipe") -> None:
    """Check everything that can be checked without the pivot.

    Raises:
        OptimizeError: ``LPT-OPT-005`` an entry contradicts the rules or another entry.
    """
    if recipe.scheme not in SCHEMES:
        raise _wrong(name, f"scheme {recipe.scheme!r} is none of {', '.join(SCHEMES)}")
    for value, tensor in recipe.tensors.items():
        problem = _tensor_problem(tensor)
        if problem:
            raise _wrong(name, f"tensors[{value!r}]: {problem}")
        _check_same(recipe, value, tensor, name)
        if tensor.dtype == "int16" and recipe.scheme != "int16-static":
            raise _wrong(name, f"tensors[{value!r}] is int16 in the scheme {recipe.scheme}")
    _check_blocks(recipe, name)
    _check_sparse(recipe, name)
    _check_recovery(recipe, name)
    for value, layer in recipe.layers.items():
        if layer.mode not in _MODES:
            raise _wrong(name, f"layers[{value!r}]: mode {layer.mode!r} is none of {_MODES}")
        if layer.weight in recipe.blocks:
            continue
        needed = [layer.weight] if layer.weight else []
        if layer.mode == "static":
            needed += [*layer.inputs, layer.output]
        for used in needed:
            if used not in recipe.tensors:
                raise _wrong(name, f"layers[{value!r}] reads {used!r}, which tensors does not have")
        if layer.fused and layer.fused[-1] != layer.output:
            raise _wrong(name, f"layers[{value!r}]: fused does not end with {layer.output!r}")


def _check_blocks(recipe: Recipe, name: str) -> None:
    for value, entry in recipe.blocks.items():
        problem = entry.problem()
        if value in recipe.tensors:
            problem = "it is in tensors as well; a weight is stored in one way"
        if problem:
            raise _wrong(name, f"blocks[{value!r}]: {problem}")
    for value, layer in recipe.layers.items():
        if layer.weight in recipe.blocks and (layer.mode != "weight" or layer.op not in _PRODUCTS):
            raise _wrong(
                name,
                f"layers[{value!r}] is {layer.op} in mode {layer.mode!r}; a weight in blocks is "
                f"read by {' and '.join(_PRODUCTS)} in mode 'weight'",
            )


def _check_sparse(recipe: Recipe, name: str) -> None:
    for value, pruned in recipe.pruned.items():
        if pruned.problem():
            raise _wrong(name, f"pruned[{value!r}]: {pruned.problem()}")
    scaled = {n for entry in recipe.rescaled.values() for n in (*entry.divided, *entry.multiplied)}
    for value, palette in recipe.palettes.items():
        problem = palette.problem()
        if value in recipe.tensors or value in recipe.blocks:
            problem = "it is in tensors or blocks as well; a weight is stored in one way"
        if value in scaled:
            problem = "its channels are rescaled, and so would be the values that they share"
        if problem:
            raise _wrong(name, f"palettes[{value!r}]: {problem}")
    _check_names_once(recipe, name)


def _check_names_once(recipe: Recipe, name: str) -> None:
    """Refuse an array of the sidecar that two entries would read with different meanings."""
    seen: set[str] = set()
    own = [entry.stored for entry in recipe.pruned.values()]
    for stored in (*own, *(entry.stored for entry in recipe.palettes.values())):
        for used in stored:
            if used in seen:
                raise _wrong(name, f"two entries name {used!r} in the sidecar")
            seen.add(used)


def _check_recovery(recipe: Recipe, name: str) -> None:
    for value, entry in recipe.rescaled.items():
        if entry.problem():
            raise _wrong(name, f"rescaled[{value!r}]: {entry.problem()}")
    for value, correction in recipe.corrections.items():
        layer = recipe.layers.get(value)
        problem = correction.problem()
        if layer is not None and layer.bias != correction.bias:
            problem = f"the layer's bias is {layer.bias!r}, not {correction.bias!r}"
        if problem:
            raise _wrong(name, f"corrections[{value!r}]: {problem}")


def _tensor_problem(tensor: Tensor) -> str:
    many = isinstance(tensor.scale, tuple)
    weight = tensor.kind == "weight"
    bad = [s for s in tensor.scales if not (math.isfinite(s) and _SMALLEST <= s <= _LARGEST)]
    checks = (
        (tensor.kind not in KINDS, f"kind {tensor.kind!r} is none of {', '.join(KINDS)}"),
        (
            tensor.dtype != "int8" and (weight or tensor.dtype != "int16"),
            f"dtype {tensor.dtype!r} is not int8" + ("" if weight else " or int16"),
        ),
        (
            tensor.dtype == "int16" and tensor.zero_point != 0,
            "an int16 activation has zero point 0",
        ),
        (tensor.rounding != "half-even", f"rounding {tensor.rounding!r} is not half-even"),
        (bool(bad), f"scale {bad[:1]} is not a positive, normal float32"),
        (not tensor.scales, "the list of scales is empty"),
        (many != (tensor.axis is not None), "a list of scales and an axis need each other"),
        (many and not weight, "an activation has one scale"),
        (weight and tensor.zero_point != 0, "a weight has zero point 0"),
        (
            not -128 <= tensor.zero_point <= 127,
            f"zero point {tensor.zero_point} is outside of -128..127",
        ),
        (
            tensor.integers is not None and not weight,
            "only weights have integers in the sidecar",
        ),
    )
    return next((problem for wrong, problem in checks if wrong), "")


def _check_same(recipe: Recipe, value: str, tensor: Tensor, name: str) -> None:
    if tensor.same_as is None:
        return
    other = recipe.tensors.get(tensor.same_as)
    if other is None:
        raise _wrong(name, f"tensors[{value!r}] is the same as {tensor.same_as!r}, which is absent")
    if (other.scale, other.zero_point, other.dtype) != (
        tensor.scale,
        tensor.zero_point,
        tensor.dtype,
    ):
        raise _wrong(
            name,
            f"tensors[{value!r}] has scale {tensor.scale} and zero point {tensor.zero_point}, but "
            f"{tensor.same_as!r}, which it must equal, has {other.scale} and {other.zero_point}",
        )


def _wrong(name: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-005",
        f"{name} contradicts the rules or itself",
        cause=cause,
        remedy="Correct the entry; docs/reference/recipe.md gives the rules.",
    )


def check_against(
    recipe: Recipe,
    digest: str,
    values: Sequence[str] | set[str],
    shapes: Mapping[str, Sequence[int]],
    name: str = "the recipe",
) -> None:
    """Check that a recipe belongs to a pivot.

    Args:
        recipe: The recipe.
        digest: Digest of the pivot at hand.
        values: Names of all its values, weights included.
        shapes: Shape of each weight.
        name: What to call the recipe in messages.

    Raises:
        OptimizeError: ``LPT-OPT-003`` another pivot, ``LPT-OPT-004`` it names a value or weight
            that the pivot does not have, ``LPT-OPT-005`` scales do not fit the weight's channels.
    """
    if recipe.pivot.digest != digest:
        raise OptimizeError(
            "LPT-OPT-003",
            f"{name} is for another pivot",
            cause=f"it was made for {recipe.pivot.digest}; this one is {digest}",
            remedy="Lower the recipe from the pivot that it was made for, or calibrate again: "
            "`lepton optimize`. To carry it over on purpose, change pivot.digest in the file.",
            details={"recipe": recipe.pivot.digest, "pivot": digest},
        )
    known = set(values)
    for used in _names(recipe):
        if used not in known:
            near = difflib.get_close_matches(used, sorted(known), n=1)
            raise OptimizeError(
                "LPT-OPT-004",
                f"{name} names {used!r}, which the pivot does not have"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                remedy="Correct the name, or remove the entry.",
                details={"value": used, "near": near},
            )
    for value, tensor in recipe.tensors.items():
        _check_shape(value, tensor, shapes, name)
    for key in ("blocks", "pruned", "palettes"):
        for value, entry in getattr(recipe, key).items():
            problem = entry.shape_problem(shapes.get(value))
            if problem:
                raise _wrong(name, f"{key}[{value!r}]: {problem}")
    for key in ("rescaled", "corrections"):
        for value, recovery in getattr(recipe, key).items():
            problem = recovery.shape_problem(shapes)
            if problem:
                raise _wrong(name, f"{key}[{value!r}]: {problem}")


def _names(recipe: Recipe) -> list[str]:
    found = [*recipe.tensors, *recipe.blocks, *recipe.rescaled, *recipe.corrections]
    found += [*recipe.pruned, *recipe.palettes]
    for entry in recipe.rescaled.values():
        found += [*entry.divided, *entry.multiplied]
    found += [entry.bias for entry in recipe.corrections.values()]
    for key, layer in recipe.layers.items():
        optional = [n for n in (layer.weight, layer.bias) if n]
        found += [key, layer.output, *layer.inputs, *layer.fused, *optional]
    return list(dict.fromkeys(found))


def _check_shape(
    value: str, tensor: Tensor, shapes: Mapping[str, Sequence[int]], name: str
) -> None:
    if tensor.kind != "weight":
        return
    shape = shapes.get(value)
    if shape is None:
        raise _wrong(name, f"tensors[{value!r}] is called a weight, but the pivot computes it")
    if tensor.axis is None:
        return
    if not 0 <= tensor.axis < len(shape) or shape[tensor.axis] != len(tensor.scales):
        raise _wrong(
            name,
            f"tensors[{value!r}] has {len(tensor.scales)} scales along axis {tensor.axis}; the "
            f"weight has the shape {list(shape)}",
        )


__all__ = ["check_against", "validate"]
