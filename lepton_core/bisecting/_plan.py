"""Which values are compared, in which groups, and the recipe of a part of the pivot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lepton_core.recipe import MEAN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lepton_core.recipe import Layer, Recipe, Rescaled, Tensor
    from lepton_core.types import ValueUse

GROUP_BYTES = 64 << 20
"""Values that one run yields on one side take about this much."""

FED = "/fed"
"""Ending of the input that stands for a value at which a pivot is cut."""

_FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True, slots=True)
class Tap:
    """One value to compare.

    Attributes:
        use: What the pivot's reader says about it.
        reads: Compared values that it follows from, with none in between.
    """

    use: ValueUse
    reads: tuple[str, ...]


def plan_taps(values: Sequence[ValueUse], recipes: Iterable[Recipe | None]) -> tuple[Tap, ...]:
    """Return the values to compare, in topological order.

    These are the float values, without those inside of what a recipe fuses into one operator:
    integers pass there at once, so no runtime has them. Left out as well are values between weights
    whose channels a recipe rescales and the value that it names: their channels have other scales.
    """
    known = [recipe for recipe in recipes if recipe is not None]
    inside = {name for recipe in known for name in (*_fused(recipe), *_on_the_way(recipe, values))}
    behind: dict[str, tuple[str, ...]] = {}
    taps = []
    for use in values:
        reads = tuple(dict.fromkeys(n for i in use.inputs for n in behind.get(i, ())))
        if use.dtype in _FLOATS and use.name not in inside:
            taps.append(Tap(use, reads))
            behind[use.name] = (use.name,)
        else:
            behind[use.name] = reads
    return tuple(taps)


def _fused(recipe: Recipe) -> Iterable[str]:
    for name, layer in recipe.layers.items():
        if layer.fused:
            yield from {name, *layer.fused} - {layer.output}


def _on_the_way(recipe: Recipe, values: Sequence[ValueUse]) -> Iterable[str]:
    """Return values between the operators of divided weights and the value that is rescaled."""
    inputs = {use.name: use.inputs for use in values}
    for value, entry in recipe.rescaled.items():
        yielded = {
            name
            for key, layer in recipe.layers.items()
            if layer.weight in entry.divided
            for name in (key, layer.output)
        }
        name = value
        while entry.divided and name not in yielded and inputs.get(name):
            name = inputs[name][0]
            yield name


def groups(taps: Sequence[Tap], rows: int, *, with_reads: bool = False) -> list[list[Tap]]:
    """Divide values, in order, so that one batch of *rows* stays within :data:`GROUP_BYTES`."""
    size_of = {tap.use.name: rows * tap.use.row_bytes for tap in taps}
    found: list[list[Tap]] = []
    size = 0
    for tap in taps:
        need = size_of[tap.use.name]
        if with_reads:
            need += sum(size_of.get(name, 0) for name in tap.reads)
        if not found or size + need > GROUP_BYTES:
            found.append([])
            size = 0
        found[-1].append(tap)
        size += need
    return found


def ancestors(taps: Sequence[Tap], last: str) -> tuple[Tap, ...]:
    """Return the values that *last* follows from, and itself, in topological order."""
    wanted = {last}
    for tap in reversed(taps):
        if tap.use.name in wanted:
            wanted |= set(tap.reads)
    return tuple(tap for tap in taps if tap.use.name in wanted)


def recipe_for(recipe: Recipe, digest: str, names: Collection[str], fed: Collection[str]) -> Recipe:
    """Return a recipe for a part of its pivot.

    Args:
        recipe: The recipe of the whole.
        digest: Digest of the part.
        names: All names in the part; entries about others are left out.
        fed: Values at which it is cut: readers find them under ``NAME/fed``, with the scale of the
            value itself.
    """
    have, cut = set(names), set(fed)
    have |= {f"{name}{MEAN}" for name in recipe.layers if name in have}
    layers = {
        name: replace(layer, inputs=tuple(_own(n, cut) for n in layer.inputs))
        for name, layer in recipe.layers.items()
        if name in have and _is_whole(layer, have, cut)
    }
    tensors = {name: entry for name, entry in recipe.tensors.items() if name in have}
    for name in sorted(cut & recipe.tensors.keys()):
        if f"{name}{FED}" in have:
            tensors[f"{name}{FED}"] = replace(recipe.tensors[name], same_as=None)
    return replace(
        recipe,
        pivot=replace(recipe.pivot, digest=digest),
        layers=layers,
        tensors=_without_absent(tensors),
        blocks={name: entry for name, entry in recipe.blocks.items() if name in have},
        kept_float={name: why for name, why in recipe.kept_float.items() if name in have},
        rescaled=_rescaled(recipe, have, cut),
        corrections={name: entry for name, entry in recipe.corrections.items() if name in layers},
    )


def _rescaled(recipe: Recipe, have: set[str], cut: set[str]) -> dict[str, Rescaled]:
    """Divide entries of values at which the pivot is cut: one side yields, the other is fed."""
    found: dict[str, Rescaled] = {}
    for name, entry in recipe.rescaled.items():
        fed = _own(name, cut)
        reads = {weight: axis for weight, axis in entry.multiplied.items() if weight in have}
        yields = entry.divided if name in have and set(entry.divided) <= have else {}
        if fed == name and (yields or reads):
            found[name] = replace(entry, divided=yields, multiplied=reads)
            continue
        if yields:
            found[name] = replace(entry, divided=yields, multiplied={})
        if reads and fed in have:
            found[fed] = replace(entry, divided={}, multiplied=reads)
    return found


def _own(name: str, cut: set[str]) -> str:
    return f"{name}{FED}" if name in cut else name


def _is_whole(layer: Layer, have: set[str], cut: set[str]) -> bool:
    used = {*(_own(n, cut) for n in layer.inputs), layer.output, *layer.fused}
    return used | {n for n in (layer.weight, layer.bias) if n} <= have


def _without_absent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let entries whose model is not there stand for themselves; the numbers are the same."""
    return {
        name: replace(entry, same_as=None)
        if entry.same_as is not None and entry.same_as not in tensors
        else entry
        for name, entry in tensors.items()
    }


__all__ = ["FED", "GROUP_BYTES", "Tap", "ancestors", "groups", "plan_taps", "recipe_for"]
