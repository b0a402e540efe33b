"""Histograms of values and thresholds, said in plain NumPy."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def value_grid(low: float, high: float, bins: int) -> tuple[int, int]:
    """The exponent of the bins' width and the place of the first bin, for values in a range."""
    magnitude = max(abs(low), abs(high))
    exponent = max(math.frexp(magnitude)[1] - 24, -126) if magnitude else -126
    while math.floor(Fraction(high) / Fraction(2) ** exponent) - math.floor(
        Fraction(low) / Fraction(2) ** exponent
    ) >= (bins):
        exponent += 1
    return exponent, math.floor(Fraction(low) / Fraction(2) ** exponent)


def value_histogram(
    x: NDArray[Any], bins: int, *, magnitudes: bool = False
) -> tuple[int, int, NDArray[np.uint64]]:
    """The grid of the finite values, or of their magnitudes, and the counts by bin."""
    values = np.asarray(x, np.float32).ravel()
    values = values[np.isfinite(values)].astype(np.float64)
    values = np.abs(values) if magnitudes else values
    if not values.size:
        return -126, 0, np.zeros(bins, np.uint64)
    low = 0.0 if magnitudes else float(values.min())
    exponent, first = value_grid(low, float(values.max()), bins)
    places = np.floor(np.ldexp(values, -exponent)).astype(np.int64) - first
    return exponent, first, np.bincount(places, minlength=bins).astype(np.uint64)


def quantile_range(
    x: NDArray[Any], percent: float, *, magnitudes: bool = False
) -> tuple[float, float]:
    """The range of the central `percent` of the finite values, found by sorting them."""
    values = np.asarray(x, np.float32).ravel()
    values = values[np.isfinite(values)]
    values = np.sort(np.abs(values) if magnitudes else values)
    share = Fraction(repr(float(percent))) / 100
    share = share if magnitudes else (1 + share) / 2
    rank = max(1, math.ceil(share * values.size))
    high = float(values[rank - 1])
    return (-high if magnitudes else float(values[values.size - rank])), high


def rounding_error(x: NDArray[Any], scale: float, low: int, high: int) -> float:
    """The mean squared error of rounding values to integers times `scale`, in float64."""
    values = np.asarray(x, np.float32).astype(np.float64).ravel()
    restored = np.clip(np.rint(values / scale), low, high) * scale
    return float(np.mean((values - restored) ** 2))


def divergence(counts: NDArray[Any], kept: int, levels: int) -> float:
    """KL(P || Q) of keeping the first bins of a histogram of magnitudes in `levels` groups."""
    p = np.asarray(counts[:kept], np.float64)
    q = p.copy()
    p[-1] += np.sum(counts[kept:])
    for group in range(levels):
        part = slice(group * kept // levels, (group + 1) * kept // levels)
        filled = p[part] > 0
        if filled.any():
            q[part] = np.where(filled, q[part].sum() / np.count_nonzero(filled), 0)
    filled = p > 0
    if not q[filled].all():
        return math.inf
    p, q = p[filled] / p.sum(), q[filled] / q.sum()
    return float(np.sum(p * np.log(p / q)))


def entropy_threshold(counts: NDArray[Any], levels: int) -> tuple[int, float]:
    """The number of bins to keep with the least divergence (of equal ones, the largest)."""
    last = int(np.max(np.nonzero(counts))) + 1
    found = [(divergence(counts[:last], kept, levels), -kept) for kept in range(levels, last + 1)]
    if not found:
        return last, 0.0
    least, kept = min(found)
    return -kept, least
