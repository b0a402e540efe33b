"""Which dimensions of a shape become which of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def regions(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Divide a change of shape into the smallest regions of equal products.

    Args:
        before: The shape that goes in.
        after: The shape that comes out, of as many values.

    Returns:
        For each region the positions of its dimensions in both shapes. Sizes of one belong to the
        region in front of them or make none.
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        left = right = 1
        if i < len(before):
            old.append(i)
            left, i = before[i], i + 1
        if j < len(after):
            new.append(j)
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                old.append(i)
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                new.append(j)
                right, j = right * after[j], j + 1
            else:  # one side has run out; an empty tensor
                old += range(i, len(before))
                new += range(j, len(after))
                i, j = len(before), len(after)
                break
        found.append((old, new))
    return found


__all__ = ["regions"]
