"""The distribution of values that come in batches, and the ranges that follow from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels import _native, _threshold
from lepton_kernels._arguments import check_count, check_same_kind, check_threads
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

    from lepton_kernels._threshold import RangeEstimate

_LARGEST = float(np.finfo(np.float32).max)
_COUNTERS = ("count", "zeros", "nan", "positive_infinity", "negative_infinity")
_FIELDS = (*_COUNTERS, "bins", "symmetric", "low", "high", "exponent", "first", "counts")


class HistogramObserver:
    """A histogram of all batches with a fixed number of bins, whose width is a power of two.

    The bins are the narrowest that hold all values. When the range grows, bins merge pairwise, so
    that no count is lost: the counts are always those that the final bins would have had from the
    start. So batches, and observers of other threads or processes, add up in any order to the
    same. Memory does not grow with the number of values.

    Attributes:
        bins: The number of bins.
        symmetric: Whether magnitudes are counted instead of values.
        count: Finite values seen.
        zeros: Values among them that are exactly 0.
        nan: NaN seen, in no bin.
        positive_infinity: Positive infinities seen, in no bin.
        negative_infinity: Negative infinities seen, in no bin.
        low: The smallest finite value, exact; +inf if there is none.
        high: The largest finite value, exact; -inf if there is none.
    """

    __slots__ = (*_COUNTERS, "_counts", "_exponent", "_first", "bins", "high", "low", "symmetric")

    def __init__(self, bins: int = 2048, *, symmetric: bool = False) -> None:
        """Starts without values.

        Args:
            bins: 16 to 65536.
            symmetric: Count magnitudes, from 0: twice the resolution if ranges will be symmetric.

        Raises:
            KernelError: `bins` is out of range.
        """
        self.bins = check_count("bins", bins, 16)
        if self.bins > 65536:
            raise KernelError(f"bins is {bins}; accepted are 16 to 65536")
        self.symmetric = bool(symmetric)
        self.count = self.zeros = self.nan = 0
        self.positive_infinity = self.negative_infinity = 0
        self.low, self.high = math.inf, -math.inf
        self._exponent, self._first = _grid(0.0, 0.0, self.bins)
        self._counts = np.zeros(self.bins, np.uint64)

    @property
    def counts(self) -> NDArray[np.uint64]:
        """The finite values (or magnitudes) by bin, a copy of shape ``(bins,)``."""
        return self._counts.copy()

    @property
    def bin_width(self) -> float:
        """The width of a bin, a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ends of the bins, float64 of shape ``(bins + 1,)``; a bin holds its lower end."""
        return np.ldexp(np.arange(self.bins + 1, dtype=np.float64) + self._first, self._exponent)

    def update(self, x: ArrayLike, *, threads: int | None = None) -> Self:
        """Adds a batch, in one pass over it.

        Args:
            x: float32, float16 or bfloat16 values of any shape and strides.
            threads: The largest number of threads; None uses all that the process may use. The
                result does not depend on it.

        Returns:
            This observer.

        Raises:
            KernelTypeError: The dtype is not supported.
        """
        seen = type(self)(self.bins, symmetric=self.symmetric)
        state = _native.value_histogram(
            np.asarray(x), self.bins, self.symmetric, seen._counts, check_threads(threads)
        )
        seen._exponent, seen._first = state.pop("exponent"), state.pop("first")
        for name, value in state.items():
            setattr(seen, name, value)
        return self.merge(seen)

    def merge(self, other: HistogramObserver) -> Self:
        """Adds what another observer has seen.

        Args:
            other: The other observer, with as many bins and of the same kind; it does not change.

        Returns:
            This observer.

        Raises:
            KernelTypeError: It is something else.
            KernelError: The number of bins differs, or one of them counts magnitudes.
        """
        check_same_kind(self, other)
        if (self.bins, self.symmetric) != (other.bins, other.symmetric):
            raise KernelError(
                f"observers of {self.bins} bins (symmetric={self.symmetric}) and of {other.bins} "
                f"bins (symmetric={other.symmetric}) do not merge; create them alike"
            )
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.count:
            self.low, self.high = min(self.low, other.low), max(self.high, other.high)
            exponent, first = self._grid()
            self._counts = self._counts_at(exponent, first) + other._counts_at(exponent, first)
            self._exponent, self._first = exponent, first
        return self

    def _grid(self) -> tuple[int, int]:
        """The exponent of the width and the place of the first bin, for the range seen."""
        if self.symmetric:
            return _grid(0.0, max(self.high, -self.low), self.bins)
        return _grid(self.low, self.high, self.bins)

    def _counts_at(self, exponent: int, first: int) -> NDArray[np.uint64]:
        """The counts in the bins of a coarser grid."""
        if (exponent, first) == (self._exponent, self._first):
            return self._counts
        filled = np.flatnonzero(self._counts)
        places = ((self._first + filled) >> (exponent - self._exponent)) - first
        counts = np.zeros(self.bins, np.uint64)
        np.add.at(counts, places, self._counts[filled])
        return counts

    def percentile(self, percent: float) -> RangeEstimate:
        """The range of the central `percent` of the values.

        Of n values in order the upper limit is number ``r = ceil(n (1 + percent / 100) / 2)`` and
        the lower one number ``n + 1 - r``; of magnitudes (`symmetric`) it is number
        ``ceil(n percent / 100)``, for both signs. Each limit is the outer end of the bin that
        holds that value (at most the exact minimum or maximum): it is not inside the exact one,
        and less than a bin width outside of it.

        Args:
            percent: Above 0, at most 100; read as the decimal number that it prints as.

        Returns:
            The range; `objective` is the share of the values in bins outside of it.

        Raises:
            KernelError: `percent` is out of range, or there is no finite value.
        """
        return _threshold.percentile(self, percent)

    def mse_threshold(self, bits: int = 8, *, symmetric: bool | None = None) -> RangeEstimate:
        """The range in which `bits`-bit integers have the least mean squared error.

        Values count as spread evenly over their bin, exact zeros as zeros. The root of the mean
        squared error of any range is within one bin width of that for the values themselves, so
        that the result is within two of the best candidate. The candidates are on the definition
        page.

        Args:
            bits: 2 to 16.
            symmetric: True: integers ``-(2^(bits-1)-1)..2^(bits-1)-1`` with zero point 0; False:
                ``2^bits`` integers over a range that holds 0, with an integer zero point. None: as
                the observer counts.

        Returns:
            The range; `objective` is its mean squared error.

        Raises:
            KernelError: `bits` is out of range, magnitudes cannot tell an asymmetric range, or
                there is no finite value.
        """
        return _threshold.mse_threshold(self, bits, symmetric)

    def entropy_threshold(self, levels: int = 128) -> RangeEstimate:
        """The range whose quantized distribution diverges least from that of the values.

        The least Kullback-Leibler divergence among the thresholds of `levels` bins and more, one
        bin apart; the definition page has the terms. Exact zeros, which every scheme represents,
        are left out.

        Args:
            levels: Magnitudes that the integers can tell apart: 128 for 8 bits with a sign, 256
                for uint8 of values that are not negative.

        Returns:
            The range, cut to the exact minimum and maximum unless the observer is symmetric;
            `objective` is the divergence in nats.

        Raises:
            KernelError: `levels` is out of range, or there is no finite value.
        """
        return _threshold.entropy_threshold(self, levels)

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data, fit for JSON; empty bins at the end are left out."""
        state = {name: getattr(self, name) for name in _FIELDS[:-5]}
        filled = np.flatnonzero(self._counts)
        return state | {
            "low": self.low if self.count else None,
            "high": self.high if self.count else None,
            "exponent": self._exponent,
            "first": self._first,
            "counts": self._counts[: filled[-1] + 1 if filled.size else 0].tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The observer that `to_dict` described.

        Args:
            data: What `to_dict` returned.

        Returns:
            A new observer.

        Raises:
            KernelError: An entry is missing or unknown, or they contradict each other.
        """
        if set(data) != set(_FIELDS):
            raise KernelError(f"expected the entries {sorted(_FIELDS)}, got {sorted(data)}")
        observer = cls(data["bins"], symmetric=data["symmetric"])
        try:
            return observer._restore(data)
        except KernelError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise KernelError(f"an entry is no number that fits: {error}") from error

    def _restore(self, data: Mapping[str, Any]) -> Self:
        """Takes over the entries of `to_dict`."""
        for name in _COUNTERS:
            setattr(self, name, int(data[name]))
        counts = np.array(data["counts"], np.uint64)
        if counts.size > self.bins or int(counts.sum()) != self.count:
            raise KernelError(
                f"{counts.size} counts of {counts.sum()} values do not fit {self.bins} bins of "
                f"{self.count} values"
            )
        self._counts[: counts.size] = counts
        if self.count:
            self.low, self.high = float(data["low"]), float(data["high"])
            if not -_LARGEST <= self.low <= self.high <= _LARGEST:
                raise KernelError(f"{self.low} to {self.high} is no range of float32")
            grid = (data["exponent"], data["first"])
            if grid != self._grid():
                raise KernelError(
                    f"exponent and first are {grid}; of {self.low} to {self.high} in {self.bins} "
                    f"bins they are {self._grid()}"
                )
            self._exponent, self._first = self._grid()
        return self


def _grid(low: float, high: float, bins: int) -> tuple[int, int]:
    """The exponent of the width, and the place of the first bin, for values in a range.

    Float32 times a power of two is exact in float64.
    """
    magnitude = max(abs(low), abs(high))
    exponent = max(math.frexp(magnitude)[1] - 24, -126) if magnitude else -126
    while True:
        first = math.floor(math.ldexp(low, -exponent))
        if math.floor(math.ldexp(high, -exponent)) - first < bins:
            return exponent, first
        exponent += 1
