"""Which channels go: the least important ones for what they cost, until a budget holds."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_torch._pruning._classes import Cut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._trace import Structure

_TINY = 1e-12
_ROUNDING = 1e-12
"""Relative error of a share that is itself a quotient of counts, such as one that was reached."""


@dataclass(frozen=True)
class Chosen:
    """Classes that go.

    Attributes:
        removed: The classes.
        share: What is left of what the budget counts.
        limit: What kept it from getting lower, if the budget does not hold.
    """

    removed: tuple[int, ...]
    share: float
    limit: str = ""


def counted(structure: Structure, metric: str) -> Callable[[Cut | None], int]:
    """Return what counts a budget's unit: multiply-accumulates or trained values."""
    return structure.parameters if metric == "parameters" else structure.macs


def choose(
    structure: Structure,
    groups: list[Group],
    importance: Mapping[int, float],
    *,
    metric: str,
    share: float,
    removed: tuple[int, ...] = (),
) -> Chosen:
    """Remove blocks of channels, cheapest first, until the share of a budget is reached.

    A block is as many of a group's least important classes as keep its width a multiple. Blocks
    are compared by the importance that they lose for each unit that they save; what a block saves
    only falls while others go, so that a heap whose top is computed anew is exact.

    Args:
        structure: What can be removed.
        groups: Its groups.
        importance: Importance of every class of the groups, comparable between groups.
        metric: ``"macs"`` or ``"parameters"``.
        share: Share of the original that may be left.
        removed: Classes that are gone already.
    """
    count = counted(structure, metric)
    total = count(None)
    allowed = math.floor(share * total * (1.0 + _ROUNDING) + 1e-6)
    gone = set(removed)
    now = count(Cut(structure.classes, sorted(gone)))
    queues = [
        sorted((c for c in map(int, g.classes) if c not in gone), key=lambda c: (importance[c], c))
        for g in groups
    ]

    def score(number: int) -> tuple[float, list[int]] | None:
        group, queue = groups[number], queues[number]
        size = group.next_size(len(queue))
        if size == len(queue):
            return None
        block = queue[: len(queue) - size]
        saved = now - count(Cut(structure.classes, sorted(gone | set(block))))
        lost = float(np.sum([importance[c] for c in block]))
        return lost / max(saved / total, _TINY), block

    taken: list[list[int]] = []
    heap = [(found[0], n) for n in range(len(groups)) if (found := score(n)) is not None]
    heapq.heapify(heap)
    while now > allowed and heap:
        _, number = heapq.heappop(heap)
        found = score(number)
        if found is None:
            continue
        if heap and found[0] > heap[0][0]:
            heapq.heappush(heap, (found[0], number))
            continue
        gone |= set(found[1])
        taken.append(found[1])
        del queues[number][: len(found[1])]
        now = count(Cut(structure.classes, sorted(gone)))
        following = score(number)
        if following is not None:
            heapq.heappush(heap, (following[0], number))
    for number in reversed(
        range(len(taken))
    ):  # the last block may have saved more than was missing
        block = taken[number]
        if any(set(later) & _group_of(groups, block) for later in taken[number + 1 :] if later):
            continue
        back = count(Cut(structure.classes, sorted(gone - set(block))))
        if back <= allowed:
            gone -= set(block)
            taken[number], now = [], back
    limit = ""
    if now > allowed:
        limit = "every group has reached its smallest width" if groups else "nothing can be removed"
    return Chosen(tuple(sorted(gone)), now / total if total else 1.0, limit)


def _group_of(groups: list[Group], block: list[int]) -> set[int]:
    """Return the classes of the group that a block is of."""
    return next((set(map(int, g.classes)) for g in groups if block[0] in g.classes), set())


__all__ = ["Chosen", "choose", "counted"]
