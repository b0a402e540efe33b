"""Which indices of axes can only be removed together: a union-find over channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

NONE = -1
"""Stands in an axis for an index that is no channel and always stays."""


class Classes:
    """Channels, and which of them go together.

    A channel is a number; an axis of a tensor is an array of them, one per index. Channels that are
    joined form a class: all of it is removed, or nothing. A pinned class stays, for a reason.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(0, np.int64)
        self._pinned: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(self._parent)

    def fresh(self, count: int) -> Ids:
        """Return *count* new channels, each a class of its own."""
        first = len(self._parent)
        ids = np.arange(first, first + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, ids])
        return ids

    def find(self, ids: Ids) -> Ids:
        """Return the class of every channel: its smallest member; :data:`NONE` stays."""
        found = np.where(ids < 0, NONE, ids)
        while True:
            above = np.where(found < 0, NONE, self._parent[np.maximum(found, 0)])
            if np.array_equal(above, found):
                inside = ids >= 0
                self._parent[ids[inside]] = found[inside]  # shorter ways for later questions
                return found
            found = above

    def join(self, left: Ids, right: Ids, why: str) -> None:
        """Make channels at the same index one class; those beside :data:`NONE` are pinned.

        Args:
            left: Channels.
            right: As many.
            why: Reason for what gets pinned.
        """
        for a, b in zip(self.find(left), self.find(right), strict=True):
            if a < 0 or b < 0:
                self._pin_one(int(max(a, b)), why)
                continue
            one, other = self._root(int(a)), self._root(int(b))
            if one == other:
                continue
            low, high = min(one, other), max(one, other)
            self._parent[high] = low
            if high in self._pinned:
                self._pinned.setdefault(low, self._pinned.pop(high))

    def join_rows(self, table: Ids) -> Ids:
        """Make each row of a table one class; return one channel per row.

        A row with a :data:`NONE` is pinned and yields :data:`NONE`.
        """
        first = table[:, 0]
        for column in range(1, table.shape[1]):
            self.join(first, table[:, column], "it shares a block with values that stay")
        return np.where((table < 0).any(axis=1), NONE, first)

    def pin(self, ids: Ids | None, why: str) -> None:
        """Let channels stay, for a reason; the first reason is kept."""
        if ids is not None:
            for root in np.unique(self.find(ids)):
                self._pin_one(int(root), why)

    def _pin_one(self, ident: int, why: str) -> None:
        if ident >= 0:
            self._pinned.setdefault(self._root(ident), why)

    def _root(self, ident: int) -> int:
        while self._parent[ident] != ident:
            ident = int(self._parent[ident])
        return ident

    def why_pinned(self, ident: int) -> str | None:
        """Return why a channel stays, ``None`` if it may go."""
        return None if ident < 0 else self._pinned.get(self._root(ident))

    def free(self, ids: Ids) -> Ids:
        """Return the classes among *ids* that may be removed, ascending."""
        roots = np.unique(self.find(ids))
        return np.array([r for r in roots if r >= 0 and int(r) not in self._pinned], np.int64)


class Cut:
    """Classes that are removed, and what that makes of axes.

    Args:
        classes: All channels.
        removed: The classes that go.
    """

    def __init__(self, classes: Classes, removed: Ids | Sequence[int]) -> None:
        roots = classes.find(np.arange(len(classes), dtype=np.int64))
        self._keeps = ~np.isin(roots, np.asarray(removed, np.int64))

    def mask(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which indices of an axis stay."""
        return (ids < 0) | self._keeps[np.maximum(ids, 0)]

    def kept(self, ids: Ids) -> NDArray[np.int64]:
        """Return the indices of an axis that stay."""
        return np.flatnonzero(self.mask(ids))

    def count(self, ids: Ids) -> int:
        """Return how many indices of an axis stay."""
        return int(self.mask(ids).sum())


__all__ = ["NONE", "Classes", "Cut"]
