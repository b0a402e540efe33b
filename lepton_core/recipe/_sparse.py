"""Weights that are pruned or share a few values: what a recipe says about one, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PRUNINGS = ("magnitude", "wanda")
"""How weights are ranked: by magnitude, or by magnitude times the norm of their input (Wanda)."""

SCOPES = ("layer", "row", "global")
"""What is ranked together: a weight, what leads to one output of it, or all weights."""

LARGEST_GROUP = 64
"""Values of a group of an N:M pattern at most."""


@dataclass(frozen=True, slots=True)
class PrunedWeight:
    """Which values of one weight are 0; the others are those of the pivot.

    A pruned weight may be in ``tensors``, ``blocks`` or ``palettes`` as well: it is pruned first.

    Attributes:
        method: One of :data:`PRUNINGS`.
        sparsity: Share of its values that are 0, from 0 to 1.
        mask: Name in the sidecar of the bits that say what stays: uint8 of shape
            ``(ceil(size / 8),)``; value ``i`` of the weight in C order has bit ``i % 8``, lowest
            first, of byte ``i // 8``.
        scope: One of :data:`SCOPES`.
        pattern: ``(n, m)``: of ``m`` consecutive values along *axis* at most ``n`` stay.
        axis: Axis of the weight that runs over inputs; where there is a pattern.
    """

    method: str
    sparsity: float
    mask: str
    scope: str = "layer"
    pattern: tuple[int, int] | None = None
    axis: int | None = None

    @property
    def stored(self) -> dict[str, str]:
        """Names in the sidecar, with the dtype that each array must have."""
        return {self.mask: "uint8"}

    def problem(self) -> str:
        """Return what is wrong with the entry in itself, or nothing."""
        n, m = self.pattern or (1, 1)
        checks = (
            (self.method not in PRUNINGS, f"method {self.method!r} is none of {_or(PRUNINGS)}"),
            (self.scope not in SCOPES, f"scope {self.scope!r} is none of {_or(SCOPES)}"),
            (
                not (math.isfinite(self.sparsity) and 0 <= self.sparsity <= 1),
                f"sparsity is {self.sparsity}; it is a share from 0 to 1",
            ),
            (
                not 0 <= n <= m <= LARGEST_GROUP or m < 1,
                f"pattern is {n}:{m}; of up to {LARGEST_GROUP} values at most all stay",
            ),
            (
                (self.pattern is None) != (self.axis is None),
                "a pattern and an axis need each other",
            ),
        )
        return next((problem for wrong, problem in checks if wrong), "")

    def shape_problem(self, shape: Sequence[int] | None) -> str:
        """Return why a weight of *shape* cannot have this entry, or nothing."""
        if shape is None:
            return "the pivot computes it"
        if self.pattern is None or self.axis is None:
            return ""
        if not 0 <= self.axis < len(shape) or shape[self.axis] % self.pattern[1]:
            return (
                f"the weight has the shape {list(shape)}; groups of {self.pattern[1]} do not fit "
                f"its axis {self.axis}"
            )
        return ""


@dataclass(frozen=True, slots=True)
class PalettizedWeight:
    """How one weight is stored as places in a table of few values; it is computed with in float.

    Real = palette[group of its channel][index]. Where the weight is pruned, the table holds 0, and
    what is pruned has its index.

    Attributes:
        bits: 1 to 8; a table has ``2 ** bits`` values.
        indices: Name in the sidecar of the indices: uint8, in the weight's shape.
        palette: Name there of the tables: float32 of shape ``(groups, 2 ** bits)``.
        axis: Axis of the weight whose channels are divided into groups; ``None`` for one table.
        group: Consecutive channels that share a table, the last group may have fewer; ``None``
            for one table.
    """

    bits: int
    indices: str
    palette: str
    axis: int | None = None
    group: int | None = None

    @property
    def stored(self) -> dict[str, str]:
        """Names in the sidecar, with the dtype that each array must have."""
        return {self.indices: "uint8", self.palette: "float32"}

    def problem(self) -> str:
        """Return what is wrong with the entry in itself, or nothing."""
        checks = (
            (not 1 <= self.bits <= 8, f"bits is {self.bits}; accepted are 1 to 8"),
            (self.indices == self.palette, "indices and palette are the same array"),
            ((self.axis is None) != (self.group is None), "axis and group need each other"),
            (self.group is not None and self.group < 1, f"group is {self.group}; it is 1 or more"),
        )
        return next((problem for wrong, problem in checks if wrong), "")

    def shape_problem(self, shape: Sequence[int] | None) -> str:
        """Return why a weight of *shape* cannot have this entry, or nothing."""
        if shape is None:
            return "the pivot computes it"
        if self.axis is not None and not 0 <= self.axis < len(shape):
            return f"the weight has the shape {list(shape)}, and no axis {self.axis}"
        return ""

    def groups(self, shape: Sequence[int]) -> int:
        """Return how many tables a weight of *shape* has."""
        if self.axis is None or self.group is None:
            return 1
        return -(-shape[self.axis] // self.group)


def _or(names: Sequence[str]) -> str:
    return ", ".join(names)


__all__ = ["LARGEST_GROUP", "PRUNINGS", "SCOPES", "PalettizedWeight", "PrunedWeight"]
