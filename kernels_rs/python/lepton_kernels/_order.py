"""Exact order statistics of channels, between which percentiles clip."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_percentile, check_threads, normalise_axis
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONG = 1 << 18
"""Values of a channel from which on threads share its values instead of the channels."""


def percentile_limits(
    values: NDArray[Any],
    percentile: float,
    *,
    axis: int | None,
    magnitudes: bool,
    threads: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The limits of the central values of each channel, or 0 and that of its magnitudes.

    A limit on the other side of 0, which no range of integers needs, may be 0 instead.

    Args:
        values: float32, float16 or bfloat16 values of any shape and strides.
        percentile: The share of the values (or magnitudes) within, above 0, up to 100.
        axis: The channel axis; None takes the whole tensor.
        magnitudes: Whether magnitudes are ranked instead of values.
        threads: The largest number of threads.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `percentile` is out of range, a channel has no value, or a value is NaN.
    """
    share = Fraction(repr(check_percentile(percentile))) / 100
    place, workers = normalise_axis(axis, values.ndim), check_threads(threads)
    front = values[None] if place is None else np.moveaxis(values, place, 0)
    size = values.size // max(len(front), 1)
    limits = np.zeros((len(front), 2), np.float32)
    if len(front) and not size:
        raise KernelError("there is no value to take a scale from; give at least one per channel")
    rank = max(1, math.ceil((share if magnitudes else (1 + share) / 2) * size))
    if size >= _LONG:
        for i, channel in enumerate(front):
            limits[i] = _long(channel, size + 1 - rank, magnitudes=magnitudes, threads=workers)
    elif size:
        _native.row_limits(front, size, rank, magnitudes, limits, workers)
    shape = () if place is None else (len(front),)
    return limits[:, 0].reshape(shape), limits[:, 1].reshape(shape)


def _long(
    channel: NDArray[Any], keep: int, *, magnitudes: bool, threads: int | None
) -> tuple[float, float]:
    """The limits of one channel, by all threads."""
    if magnitudes:
        return 0.0, _native.magnitude_cut([channel], keep, threads)[0]
    low, high = (_native.side_cut(channel, keep, below, threads) for below in (True, False))
    return -low, high
