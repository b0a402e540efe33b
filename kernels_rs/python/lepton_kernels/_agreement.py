"""How well rows of scores agree: divergence of their softmax, top-1 and top-k."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_count,
    check_same_kind,
    check_threads,
    normalise_axis,
)
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Agreement:
    """The comparison of rows of scores (logits) with a reference.

    Attributes:
        rows: Rows seen.
        nonfinite: Rows with NaN or +inf on a side, or with nothing but -inf. They count as rows
            that do not agree, and make the divergences infinite.
        kl_mean: The mean over rows of ``KL(softmax(reference) || softmax(actual))``, in nats.
        kl_max: The largest of them.
        top1: The share of rows whose largest value stands in the same place.
        topk: The mean share of the k largest values of the reference that are among those of the
            actual row.
        k: The k of `topk`.
    """

    rows: int
    nonfinite: int
    kl_mean: float
    kl_max: float
    top1: float
    topk: float
    k: int


@dataclass(slots=True)
class AgreementAccumulator:
    """Sums from which `Agreement` follows, for rows that come in batches.

    The same batches in the same order give the same bits, whatever the number of threads; an
    accumulator can be pickled and merged with another of the same `k`.

    Attributes:
        k: How many of the largest values are compared.
        rows: Rows seen.
        nonfinite: Rows without a divergence.
        kl_sum: The sum of the divergences of the others.
        kl_max: The largest of them.
        top1: Rows whose largest value stands in the same place.
        shared: Places that the k largest of both sides share, over all rows.

    Raises:
        KernelTypeError: `k` is not an integer.
        KernelError: `k` is below 1.
    """

    k: int = 5
    rows: int = 0
    nonfinite: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    top1: int = 0
    shared: int = 0

    def __post_init__(self) -> None:
        self.k = check_count("k", self.k, 1)

    def update(
        self,
        reference: ArrayLike,
        actual: ArrayLike,
        *,
        axis: int = -1,
        threads: int | None = None,
    ) -> Self:
        """Adds a batch of rows.

        Args:
            reference: float16, bfloat16, float32, float64 or integer scores of any shape and
                strides; -inf stands for what is masked.
            actual: Scores of the same shape; the dtype may differ.
            axis: The axis that a row runs along; it must be at least `k` long.
            threads: The largest number of threads; None uses all that the process may use.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: A dtype is not supported.
            KernelError: The shapes differ, there is no axis, or it is shorter than `k`.
        """
        sides = [np.asarray(reference), np.asarray(actual)]
        if sides[0].ndim == 0:
            raise KernelError("the scores have no dimension; rows need at least one")
        along = normalise_axis(axis, sides[0].ndim)
        if sides[1].ndim != sides[0].ndim or along is None:
            raise KernelError(f"shapes differ: {sides[0].shape} and {sides[1].shape}")
        first, second = (np.moveaxis(side, along, -1) for side in sides)
        divergences, same, shared = _native.row_agreement(
            first, second, self.k, check_threads(threads)
        )
        finite = [value for value in divergences if not math.isnan(value)]
        self.rows += len(divergences)
        self.nonfinite += len(divergences) - len(finite)
        self.kl_sum += sum(finite)
        self.kl_max = max(self.kl_max, *finite) if finite else self.kl_max
        self.top1 += sum(same)
        self.shared += sum(shared)
        return self

    def merge(self, other: AgreementAccumulator) -> Self:
        """Adds what another accumulator has seen.

        Args:
            other: The other accumulator, which does not change.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: It is something else.
            KernelError: The other one has another `k`.
        """
        check_same_kind(self, other)
        if other.k != self.k:
            raise KernelError(f"the accumulators compare {self.k} and {other.k} values")
        self.rows += other.rows
        self.nonfinite += other.nonfinite
        self.kl_sum += other.kl_sum
        self.kl_max = max(self.kl_max, other.kl_max)
        self.top1 += other.top1
        self.shared += other.shared
        return self

    def to_dict(self) -> dict[str, float]:
        """The sums as plain data; ``AgreementAccumulator(**data)`` is the inverse."""
        return asdict(self)

    def result(self, *, nonfinite: Literal["fail", "skip"] = "fail") -> Agreement:
        """Computes the agreement of all that was added.

        Args:
            nonfinite: "fail": rows without a divergence make the divergences infinite and count
                as rows that do not agree. "skip": they are left out; they are reported either way.

        Returns:
            The agreement.

        Raises:
            KernelError: There is no row to judge.
        """
        if nonfinite not in ("fail", "skip"):
            raise KernelError(f'nonfinite is {nonfinite!r}; accepted: "fail", "skip"')
        judged = self.rows - (self.nonfinite if nonfinite == "skip" else 0)
        if judged == 0:
            raise KernelError("there is no row to compare")
        failed = nonfinite == "fail" and self.nonfinite > 0
        return Agreement(
            rows=self.rows,
            nonfinite=self.nonfinite,
            kl_mean=math.inf if failed else self.kl_sum / judged,
            kl_max=math.inf if failed else self.kl_max,
            top1=self.top1 / judged,
            topk=self.shared / (judged * self.k),
            k=self.k,
        )


def row_agreement(
    reference: ArrayLike,
    actual: ArrayLike,
    k: int = 5,
    *,
    axis: int = -1,
    threads: int | None = None,
) -> Agreement:
    """Compares rows of scores (logits): divergence of their softmax, top-1 and top-k agreement.

    Args:
        reference: float16, bfloat16, float32, float64 or integer scores of any shape and strides.
        actual: Scores of the same shape; the dtype may differ.
        k: How many of the largest values are compared, up to the length of a row.
        axis: The axis that a row runs along.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        The agreement over all rows.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The shapes differ, `k` or `axis` does not fit, or there is no row.
    """
    accumulator = AgreementAccumulator(k)
    return accumulator.update(reference, actual, axis=axis, threads=threads).result()
