"""How far two arrays are apart: one pass over both, mergeable over batches and processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_same_kind, check_threads
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from numpy.typing import ArrayLike

ERROR_BIN_EDGES: tuple[float, ...] = tuple(_native.histogram_edges())
"""The 65 edges of the 64 bins of absolute errors: ``10 ** (-12 + k / 4)``."""


_TINY = math.sqrt(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class ErrorHistogram:
    """Counts of absolute errors on a fixed logarithmic grid.

    Attributes:
        zero: Errors of exactly 0.
        underflow: Errors above 0 and below ``edges[0]`` (1e-12).
        counts: 64 counts; the k-th counts ``edges[k] <= error < edges[k + 1]``.
        overflow: Errors of at least ``edges[64]`` (1e4).
        edges: The 65 edges, four to a decade.
    """

    zero: int
    underflow: int
    counts: tuple[int, ...]
    overflow: int
    edges: tuple[float, ...] = ERROR_BIN_EDGES


@dataclass(frozen=True, slots=True)
class ErrorMetrics:
    """The comparison of actual values with a reference.

    With ``d = reference - actual`` over the positions where both are finite; where a NaN or an
    infinity stands on one side only (or the infinities differ), `max_abs`, `mean_abs` and `rel_l2`
    are infinite, `sqnr_db` and `psnr_db` are -inf and `cosine` is NaN, so that every limit fails.

    Attributes:
        count: Positions.
        compared: Positions at which both sides are finite.
        max_abs: ``max |d|``.
        mean_abs: ``mean |d|``.
        rel_l2: ``||d|| / ||reference||``; 0 if d is 0, infinite if only the reference is 0.
        sqnr_db: ``10 log10(||reference||² / ||d||²)``; +inf if d is 0, -inf if only the reference
            is 0.
        psnr_db: ``20 log10(max |reference|) - 10 log10(mean d²)``; +inf if d is 0, -inf if only
            the reference is 0.
        cosine: ``<reference, actual> / (||reference|| ||actual||)`` within -1..1; 1 if both are 0,
            0 if one is.
        nan_reference: NaN in the reference.
        nan_actual: NaN in the actual values.
        inf_reference: Infinities in the reference.
        inf_actual: Infinities in the actual values.
        nonfinite_mismatched: Positions with a NaN or an infinity at which the sides differ.
        histogram: Counts of ``|d|``.
    """

    count: int
    compared: int
    max_abs: float
    mean_abs: float
    rel_l2: float
    sqnr_db: float
    psnr_db: float
    cosine: float
    nan_reference: int
    nan_actual: int
    inf_reference: int
    inf_actual: int
    nonfinite_mismatched: int
    histogram: ErrorHistogram


@dataclass(slots=True)
class ErrorAccumulator:
    """Sums from which `ErrorMetrics` follow, for values that come in batches.

    `update` adds a batch, `merge` adds another accumulator (for example from another process; it
    can be pickled and converted to and from plain data), `result` computes the metrics. The same
    batches in the same order give the same bits, whatever the number of threads.

    The attributes are the sums themselves: counts as in `ErrorMetrics`, the largest error, the
    largest magnitude of the reference, and
    float64 sums of ``|d|``, ``d²``, ``reference²``, ``actual²`` and ``reference * actual`` over
    the positions where both sides are finite.
    """

    count: int = 0
    compared: int = 0
    nan_reference: int = 0
    nan_actual: int = 0
    inf_reference: int = 0
    inf_actual: int = 0
    nonfinite_mismatched: int = 0
    max_abs: float = 0.0
    reference_max: float = 0.0
    abs_sum: float = 0.0
    squared_sum: float = 0.0
    reference_sum: float = 0.0
    actual_sum: float = 0.0
    dot_sum: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * (len(ERROR_BIN_EDGES) + 2))

    def update(
        self, reference: ArrayLike, actual: ArrayLike, *, threads: int | None = None
    ) -> Self:
        """Adds a batch.

        Args:
            reference: float16, bfloat16, float32, float64, integer or boolean values of any shape
                and strides; integers beyond 2^53 are rounded to float64.
            actual: Values of the same shape; the dtype may differ.
            threads: The largest number of threads; None uses all that the process may use.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: A dtype is not supported.
            KernelError: The shapes differ.
        """
        sums = _native.error_sums(np.asarray(reference), np.asarray(actual), check_threads(threads))
        return self.merge(ErrorAccumulator(**sums))

    def merge(self, other: ErrorAccumulator) -> Self:
        """Adds what another accumulator has seen.

        Args:
            other: The other accumulator, which does not change.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: It is something else.
        """
        check_same_kind(self, other)
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        self.reference_max = max(self.reference_max, other.reference_max)
        self.histogram = [a + b for a, b in zip(self.histogram, other.histogram, strict=True)]
        return self

    def to_dict(self) -> dict[str, Any]:
        """The sums as plain data, fit for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"histogram": list(self.histogram)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The accumulator that `to_dict` described.

        Args:
            data: What `to_dict` returned.

        Returns:
            A new accumulator.

        Raises:
            KernelError: An entry is missing, unknown or of the wrong length.
        """
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise KernelError(f"expected the entries {sorted(names)}, got {sorted(data)}")
        histogram = [int(n) for n in data["histogram"]]
        if len(histogram) != len(ERROR_BIN_EDGES) + 2:
            raise KernelError(
                f"histogram has {len(histogram)} entries, expected {len(ERROR_BIN_EDGES) + 2}"
            )
        return cls(**{**data, "histogram": histogram})

    def result(self, *, nonfinite: Literal["fail", "skip"] = "fail") -> ErrorMetrics:
        """Computes the metrics of all that was added.

        Args:
            nonfinite: "fail": positions at which a NaN or an infinity has no equal on the other
                side make every metric fail, see `ErrorMetrics`. "skip": the metrics cover the
                other positions alone. The counts are reported either way.

        Returns:
            The metrics.

        Raises:
            KernelError: Nothing has been added.
        """
        if self.count == 0:
            raise KernelError("nothing to compare: the arrays were empty")
        if nonfinite not in ("fail", "skip"):
            raise KernelError(f'nonfinite is {nonfinite!r}; accepted: "fail", "skip"')
        failed = nonfinite == "fail" and self.nonfinite_mismatched > 0
        mean = self.abs_sum / self.compared if self.compared else 0.0
        zero, underflow, *counts, overflow = self.histogram
        return ErrorMetrics(
            count=self.count,
            compared=self.compared,
            max_abs=math.inf if failed else self.max_abs,
            mean_abs=math.inf if failed else mean,
            rel_l2=math.inf if failed else self._rel_l2(),
            sqnr_db=-math.inf if failed else self._sqnr_db(),
            psnr_db=-math.inf if failed else self._psnr_db(),
            cosine=math.nan if failed else self._cosine(),
            nan_reference=self.nan_reference,
            nan_actual=self.nan_actual,
            inf_reference=self.inf_reference,
            inf_actual=self.inf_actual,
            nonfinite_mismatched=self.nonfinite_mismatched,
            histogram=ErrorHistogram(zero, underflow, tuple(counts), overflow),
        )

    def _rel_l2(self) -> float:
        if self.squared_sum == 0:
            return 0.0
        if self.reference_sum == 0:
            return math.inf
        return math.sqrt(self.squared_sum) / math.sqrt(self.reference_sum)

    def _sqnr_db(self) -> float:
        if self.squared_sum == 0:
            return math.inf
        if self.reference_sum == 0:
            return -math.inf
        return 10 * (math.log10(self.reference_sum) - math.log10(self.squared_sum))

    def _psnr_db(self) -> float:
        if self.squared_sum == 0:
            return math.inf
        if self.reference_max == 0:
            return -math.inf
        mean = math.log10(self.squared_sum) - math.log10(self.compared)
        return 20 * math.log10(self.reference_max) - 10 * mean

    def _cosine(self) -> float:
        if self.reference_sum == 0 or self.actual_sum == 0:
            return float(self.reference_sum == self.actual_sum)
        # One root is exact for equal norms; two keep the product within float64's range.
        norms = math.sqrt(self.reference_sum * self.actual_sum)
        if not _TINY < norms < math.inf:
            norms = math.sqrt(self.reference_sum) * math.sqrt(self.actual_sum)
        return max(-1.0, min(1.0, self.dot_sum / norms))


_KEPT = ("max_abs", "reference_max", "histogram")
_ADDED = tuple(f.name for f in fields(ErrorAccumulator) if f.name not in _KEPT)


def error_metrics(
    reference: ArrayLike, actual: ArrayLike, *, threads: int | None = None
) -> ErrorMetrics:
    """Compares two arrays of the same shape in one pass.

    Args:
        reference: float16, bfloat16, float32, float64, integer or boolean values of any shape and
            strides.
        actual: Values of the same shape; the dtype may differ.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        The metrics; differences and sums are float64.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The shapes differ, or there is nothing to compare.
    """
    return ErrorAccumulator().update(reference, actual, threads=threads).result()
