"""Ranges for quantization, found from the histogram of an observer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_count, check_real
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lepton_kernels._histogram_observer import HistogramObserver

_COARSE, _FINE = 8, 8
"""Steps of the search to an octave, and steps between two of those."""

_ROUNDS = 4
"""The most times that either end of an asymmetric range is searched."""


@dataclass(frozen=True, slots=True)
class RangeEstimate:
    """A range that a histogram suggests.

    Attributes:
        low: The lower limit; float32 holds it exactly for percentiles and entropy.
        high: The upper limit.
        bin_width: The resolution: the width of a bin.
        objective: What the method minimises or reports for this range.
    """

    low: float
    high: float
    bin_width: float
    objective: float


def _require_values(observer: HistogramObserver) -> None:
    if observer.count == 0:
        seen = observer.nan + observer.positive_infinity + observer.negative_infinity
        raise KernelError(
            f"no finite values have been observed ({seen} NaN and infinities); call update with "
            "finite values first"
        )


def percentile(observer: HistogramObserver, percent: float) -> RangeEstimate:
    """See `HistogramObserver.percentile`."""
    percent = check_real("percent", percent)
    if not 0 < percent <= 100:
        raise KernelError(f"percent is {percent}; accepted are values above 0, up to 100")
    _require_values(observer)
    share = Fraction(repr(percent)) / 100
    n, width, counts = observer.count, observer.bin_width, observer._counts
    below = np.cumsum(counts)
    rank = max(1, math.ceil((share if observer.symmetric else (1 + share) / 2) * n))
    last = int(np.searchsorted(below, rank))
    outside = n - int(below[last])
    high = (observer._first + last + 1) * width
    if observer.symmetric:
        high = min(high, _magnitude(observer))
        return RangeEstimate(-high, high, width, outside / n)
    first = int(np.searchsorted(below, n + 1 - rank))
    outside += int(below[first - 1]) if first else 0
    low = max((observer._first + first) * width, observer.low)
    return RangeEstimate(low, min(high, observer.high), width, outside / n)


def _magnitude(observer: HistogramObserver) -> float:
    return max(observer.high, -observer.low)


def _counts_without_zeros(observer: HistogramObserver) -> NDArray[np.uint64]:
    counts = observer.counts
    if observer.zeros:
        counts[-observer._first] -= np.uint64(observer.zeros)
    return counts


class _Cells:
    """The cells of a histogram that hold values other than 0."""

    def __init__(self, observer: HistogramObserver) -> None:
        counts = _counts_without_zeros(observer)
        filled = np.flatnonzero(counts)
        low, high = observer.low, observer.high
        if observer.symmetric:
            low, high = 0.0, _magnitude(observer)
        edges = observer.edges
        self._lower = np.maximum(edges[filled], low)
        self._upper = np.minimum(edges[filled + 1], high)
        self._weight = counts[filled].astype(np.float64)

    def errors(self, candidates: list[tuple[float, float, float]]) -> list[float]:
        """The sum of squared errors of each scale with its smallest and largest integer."""
        return _native.rounding_error(self._lower, self._upper, self._weight, candidates)


def mse_threshold(observer: HistogramObserver, bits: int, symmetric: bool | None) -> RangeEstimate:
    """See `HistogramObserver.mse_threshold`."""
    if not 2 <= check_count("bits", bits, 2) <= 16:
        raise KernelError(f"bits is {bits}; accepted are 2 to 16")
    _require_values(observer)
    if symmetric is None:
        symmetric = observer.symmetric
    if observer.symmetric and not symmetric:
        raise KernelError(
            "the observer has counted magnitudes, which tell no asymmetric range; create it with "
            "symmetric=False"
        )
    cells, width = _Cells(observer), observer.bin_width
    if symmetric:
        top = float(2 ** (bits - 1) - 1)

        def error(limits: Sequence[float]) -> list[float]:
            return cells.errors([(limit / top, -top, top) for limit in limits])

        high, least = _shrink(_magnitude(observer), width, error)
        return RangeEstimate(-high, high, width, least / observer.count)
    low, high, least = _asymmetric(observer, cells, 2**bits - 1)
    return RangeEstimate(low, high, width, least / observer.count)


def _asymmetric(observer: HistogramObserver, cells: _Cells, top: int) -> tuple[float, float, float]:
    """Shrinks the upper and the lower end in turn until neither gains."""
    low, high, width = min(observer.low, 0.0), max(observer.high, 0.0), observer.bin_width
    ends, least = [low, high], math.inf

    def candidate(low: float, high: float) -> tuple[float, float, float]:
        scale = (high - low) / top
        zero = min(float(np.rint(-low / scale)), float(top))
        return scale, -zero, top - zero

    for _ in range(_ROUNDS):
        before = least
        for end, limit in ((1, high), (0, low)):
            if limit == 0:
                continue

            def error(values: Sequence[float], end: int = end) -> list[float]:
                pairs = [(ends[0], v) if end else (-v, ends[1]) for v in values]
                return cells.errors([candidate(*pair) for pair in pairs])

            best, found = _shrink(abs(limit), width, error)
            if found < least:
                ends[end], least = (best if end else -best), found
        if least == before:
            break
    return ends[0], ends[1], 0.0 if math.isinf(least) else least


def _shrink(
    limit: float, width: float, error: Callable[[Sequence[float]], list[float]]
) -> tuple[float, float]:
    """The limit among ``limit * 2^(-j / 8)``, then among finer steps around it, and its error."""
    if limit == 0:
        return 0.0, 0.0
    steps = math.ceil(_COARSE * max(0.0, math.log2(limit / width)))
    coarse = range(steps + 1)
    errors = error([limit * 2.0 ** (-j / _COARSE) for j in coarse])
    best = int(np.argmin(errors)) * _FINE
    fine = [k for k in range(best - _FINE + 1, best + _FINE) if k >= 0]
    limits = [limit * 2.0 ** (-k / (_COARSE * _FINE)) for k in fine]
    errors = error(limits)
    place = int(np.argmin(errors))
    return limits[place], errors[place]


def entropy_threshold(observer: HistogramObserver, levels: int) -> RangeEstimate:
    """See `HistogramObserver.entropy_threshold`."""
    levels = check_count("levels", levels, 1)
    _require_values(observer)
    if _magnitude(observer) == 0:
        return RangeEstimate(0.0, 0.0, observer.bin_width, 0.0)
    exponent, counts = magnitude_counts(observer)
    width = math.ldexp(1.0, exponent)
    kept, divergence = _native.entropy_threshold(counts, levels)
    limit = min(kept * width, _magnitude(observer))
    if observer.symmetric:
        return RangeEstimate(-limit, limit, width, divergence)
    low, high = max(observer.low, -limit), min(observer.high, limit)
    return RangeEstimate(min(low, 0.0), max(high, 0.0), width, divergence)


def magnitude_counts(observer: HistogramObserver) -> tuple[int, NDArray[Any]]:
    """Magnitudes by bin from 0 to the largest, without exact zeros, and the width's exponent.

    A negative value ``-x`` counts in the bin of magnitudes just below or at x, which differs from
    that of x only at the ends of bins.
    """
    counts, exponent = _counts_without_zeros(observer), observer._exponent
    # Bins far from 0 may be too fine to reach there.
    while _magnitude(observer) > math.ldexp(observer.bins, exponent):
        exponent += 1
    filled = np.flatnonzero(counts)
    places = (observer._first + filled) >> (exponent - observer._exponent)
    places = np.where(places < 0, -1 - places, places)
    folded = np.zeros(int(places.max()) + 1, np.uint64)
    np.add.at(folded, places, counts[filled])
    return exponent, folded
