"""Differences of accuracies on the same rows."""

from __future__ import annotations

import math


def interval(lost: int, won: int, n: int) -> tuple[float, float, float]:
    """The difference of paired accuracies and its 95 % interval.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 2005, 24:729-740: half a row is added to each of the four cells.

    Args:
        lost: Rows that were right before and are wrong after.
        won: Rows that were wrong before and are right after.
        n: All rows.

    Returns:
        The loss, and the lower and the upper end of its interval, as shares of the rows.
    """
    b, c, m = lost + 0.5, won + 0.5, n + 2
    middle, width = (b - c) / m, 1.96 * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return (lost - won) / n, middle - width, middle + width
