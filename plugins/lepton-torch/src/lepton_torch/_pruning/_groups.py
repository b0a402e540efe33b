"""Channels that share an axis: what widths are, and how small they may get."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from lepton_torch._pruning._trace import Layer, Structure

SMALLEST_SHARE = 0.125
"""Share of a group's channels that always stays, so that no layer becomes a bottleneck."""


@dataclass(frozen=True, eq=False)
class Group:
    """Classes that stand in the same axes of weights.

    Attributes:
        layers: The layers that make them.
        classes: The classes, in the order of the first layer's output.
        step: Classes that go at once, so that every width stays a multiple of what was asked for.
        least: Classes that stay at least.
        kind: What a class is (``"channel"``, ``"head"``).
    """

    layers: tuple[Layer, ...]
    classes: NDArray[np.int64]
    step: int
    least: int
    kind: str

    @property
    def name(self) -> str:
        """The weight that makes its first channel."""
        return self.layers[0].name

    def next_size(self, size: int) -> int:
        """Return the next smaller number of classes; *size* itself if there is none."""
        below = (size - 1) // self.step * self.step
        return below if below >= self.least else size


@dataclass(frozen=True)
class Untouched:
    """A layer none of whose channels can go.

    Attributes:
        name: Its weight.
        why: Why.
    """

    name: str
    why: str


def find_groups(
    structure: Structure, multiple: int, keep: Collection[str] = ()
) -> tuple[list[Group], list[Untouched]]:
    """Return what can be narrowed, and what cannot.

    Args:
        structure: What can be removed.
        multiple: Widths become multiples of this.
        keep: Names of weights, or of modules that hold them, that keep their width; with a scale,
            shift or bias stays what it belongs to.
    """
    classes = structure.classes
    untouched: list[Untouched] = []
    places = _places(structure)
    parts: dict[frozenset[tuple[str, int]], tuple[set[int], list[Layer]]] = {}
    for layer in structure.layers:
        free = [int(c) for c in classes.free(layer.ids)]
        if not free:
            why = next((w for i in layer.ids if (w := classes.why_pinned(int(i)))), "")
            untouched.append(Untouched(layer.name, why or "it has no channels of its own"))
        for ident in free:
            found, layers = parts.setdefault(frozenset(places[ident]), (set(), []))
            found.add(ident)
            if layer not in layers:
                layers.append(layer)
    groups = []
    apart = standalone(structure)
    for axes, (found, layers) in parts.items():
        names = [one.name for one in layers] + sorted(name for name, _ in axes if name in apart)
        kept = next((name for name in names if _is_named(name, keep)), None)
        group = _group(structure, found, layers, multiple)
        if kept is not None:
            why = (
                "asked for" if _is_named(group.name, keep) else f"it goes with {kept}, which stays"
            )
            untouched += [Untouched(one.name, why) for one in layers]
        elif group.next_size(len(group.classes)) == len(group.classes):
            width = len(layers[0].ids)
            why = f"a width of {width} has no smaller multiple of {multiple}"
            untouched += [Untouched(one.name, why) for one in layers]
        else:
            groups.append(group)
    order = {layer.name: n for n, layer in enumerate(structure.layers)}
    return sorted(groups, key=lambda g: order[g.name]), untouched


def _places(structure: Structure) -> dict[int, set[tuple[str, int]]]:
    """Return the axes of weights that every class stands in.

    Classes of one group stand in the same ones, so that none of them is ever emptied or gets an odd
    width because another part of it shrinks.
    """
    found: dict[int, set[tuple[str, int]]] = {}
    for name, axes in structure.weights.items():
        for position, ids in enumerate(axes):
            if ids is not None:
                for root in np.unique(structure.classes.find(ids)):
                    found.setdefault(int(root), set()).add((name, position))
    return found


def standalone(structure: Structure) -> set[str]:
    """Return the weights that no layer makes or adds up channels with: norms, biases, tables."""
    products = {layer.name for layer in structure.layers} | {r.weight for r in structure.readers}
    return {
        name
        for name, axes in structure.weights.items()
        if name not in products and any(ids is not None for ids in axes)
    }


def unknown_names(structure: Structure, keep: Collection[str]) -> list[str]:
    """Return the names that no weight of a width has."""
    names = {layer.name for layer in structure.layers} | standalone(structure)
    return [name for name in keep if not any(_is_named(one, (name,)) for one in names)]


def _is_named(name: str, keep: Collection[str]) -> bool:
    return any(name == k or name.startswith(f"{k}.") for k in keep)


def _group(structure: Structure, found: set[int], layers: list[Layer], multiple: int) -> Group:
    classes = structure.classes
    step, kind = 1, "channel"
    ordered: dict[int, None] = {}
    for layer in layers:
        roots = [int(r) for r in classes.find(layer.ids) if int(r) in found]
        ordered.update(dict.fromkeys(roots))
        each, rest = divmod(len(roots), len(set(roots)))
        if rest == 0:
            step = math.lcm(step, multiple // math.gcd(multiple, each))
        if each > 1 and layer.op == "linear":
            kind = "head"
        elif each > 1:
            kind = "group"
    count = len(ordered)
    least = max(step, math.ceil(SMALLEST_SHARE * count))
    return Group(tuple(layers), np.array(list(ordered), np.int64), step, least, kind)


__all__ = ["SMALLEST_SHARE", "Group", "Untouched", "find_groups", "standalone", "unknown_names"]
