"""Scales, with zero points, for ranges that are not symmetric about 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_kernels._affine import IntegerName, integer_limits
from lepton_kernels._arguments import (
    check_finite_channels,
    normalise_axis,
    output_array,
    real_array,
)
from lepton_kernels._order import percentile_limits
from lepton_kernels._range import minmax
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Pair = tuple[NDArray[np.float32], NDArray[np.int64]]

_SMALLEST_SCALE = np.finfo(np.float32).tiny


def scale_affine(
    x: ArrayLike,
    dtype: IntegerName = "int8",
    *,
    axis: int | None = None,
    narrow: bool = False,
    out: Pair | None = None,
    threads: int | None = None,
) -> Pair:
    """The scale and zero point that spread the integers over the range of the values.

    The range is widened to hold 0, which an integer then stands for exactly, and
    ``scale = (max - min) / (high - low)``, ``zero_point = low + rint(-min / scale)``: the rule of
    ``quantize_blocks(scheme="asymmetric")``, for whole tensors and channels and for all types.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        dtype: The integers, see `integer_limits`.
        axis: The channel axis; None gives one scale for the whole tensor.
        narrow: For signed types: leave out the smallest integer, as for `quantize`.
        out: A tuple of C-contiguous arrays of the result's shape, float32 and int64, which are
            filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales and int64 zero points of shape ``(channels,)``, or ``()`` without `axis`, fit
        for `quantize`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: There is no value, a value is NaN or infinite, or `out` does not fit.
    """
    values = np.asarray(x)
    limits = integer_limits(dtype, narrow=narrow)
    result = _outputs(out, _shape(values, axis), values)
    return _fill(result, *minmax(values, axis=axis, threads=threads), limits)


def scale_affine_percentile(
    x: ArrayLike,
    percentile: float,
    dtype: IntegerName = "int8",
    *,
    axis: int | None = None,
    narrow: bool = False,
    out: Pair | None = None,
    threads: int | None = None,
) -> Pair:
    """The scale and zero point of the central values: both tails are clipped.

    As `scale_affine`, over the range from number ``n + 1 - r`` to number ``r`` of the n values in
    ascending order, ``r = max(1, ceil(n (1 + percentile / 100) / 2))``: exact order statistics,
    without interpolation, and the limits that `HistogramObserver.percentile` approaches.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        percentile: The share of the values between the limits, above 0, up to 100; read as the
            decimal number that it prints as.
        dtype: The integers, see `integer_limits`.
        axis: The channel axis; None gives one scale for the whole tensor.
        narrow: For signed types: leave out the smallest integer, as for `quantize`.
        out: As for `scale_affine`.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales and int64 zero points of shape ``(channels,)``, or ``()`` without `axis`, fit
        for `quantize`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `percentile` is out of range, there is no value, a value is NaN, a limit found
            is infinite, or `out` does not fit.
    """
    values = np.asarray(x)
    limits = integer_limits(dtype, narrow=narrow)
    result = _outputs(out, _shape(values, axis), values)
    ends = percentile_limits(values, percentile, axis=axis, magnitudes=False, threads=threads)
    return _fill(result, *ends, limits)


def scale_from_minmax(
    low: ArrayLike,
    high: ArrayLike,
    dtype: IntegerName = "int8",
    *,
    narrow: bool = False,
    out: Pair | None = None,
) -> Pair:
    """The rule of `scale_affine` for ranges that are already known, such as an observer's.

    Args:
        low: The smallest values, real numbers of any shape, finite; used as float32.
        high: The largest values, of the same shape.
        dtype: The integers, see `integer_limits`.
        narrow: For signed types: leave out the smallest integer, as for `quantize`.
        out: As for `scale_affine`.

    Returns:
        float32 scales and int64 zero points of the shape of `low`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A limit is NaN, infinite or beyond float32, one of `low` is above that of
            `high`, or a shape or `out` does not fit.
    """
    limits = integer_limits(dtype, narrow=narrow)
    lowest, highest = _limit("low", low), _limit("high", high)
    if lowest.shape != highest.shape:
        raise KernelError(
            f"low has shape {lowest.shape} and high {highest.shape}; they must be of one shape"
        )
    result = _outputs(out, lowest.shape, lowest, highest)
    crossed = lowest > highest
    if crossed.any():
        raise KernelError(
            f"low is {lowest[crossed][0]} where high is {highest[crossed][0]}; accepted are ranges "
            "whose low is at most their high"
        )
    return _fill(result, lowest, highest, limits)


def scale_signed_max(
    x: ArrayLike,
    dtype: IntegerName = "int8",
    *,
    axis: int | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The scale that turns the value of largest magnitude into the smallest integer.

    ``scale = extreme / low`` uses all integers of a signed type with the zero point 0; it is
    negative where the extreme value is positive. The rule of
    ``quantize_blocks(scheme="signed_max")``, for whole tensors and channels; of equal magnitudes
    the negative value counts.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        dtype: A signed type, see `integer_limits`.
        axis: The channel axis; None gives one scale for the whole tensor.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales of shape ``(channels,)``, or ``()`` without `axis`, fit for `quantize`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The type is unsigned, there is no value, a value is NaN or infinite, or `out`
            does not fit.
    """
    smallest, _ = integer_limits(dtype)
    if not smallest:
        raise KernelError(f"a signed maximum needs a signed dtype, got {dtype}")
    values = np.asarray(x)
    scale = output_array(out, _shape(values, axis), "float32", values)
    low, high = minmax(values, axis=axis, threads=threads)
    extreme = np.where(high > -low, high, low)
    check_finite_channels(extreme)
    with np.errstate(under="ignore"):
        exact = extreme / np.float32(smallest)
    found = np.copysign(np.maximum(np.abs(exact), _SMALLEST_SCALE), exact)
    scale[...] = np.where(extreme == 0, np.float32(1), found)
    return scale


def _shape(values: NDArray[np.generic], axis: int | None) -> tuple[int, ...]:
    """The shape of one parameter for each channel."""
    place = normalise_axis(axis, values.ndim)
    return () if place is None else (values.shape[place],)


def _limit(name: str, given: ArrayLike) -> NDArray[np.float32]:
    """Limits of ranges as float32."""
    with np.errstate(over="ignore", under="ignore"):
        # What leaves float32's range becomes infinite and is refused as such.
        return real_array(name, given).astype(np.float32)


def _outputs(out: Pair | None, shape: tuple[int, ...], *inputs: NDArray[np.generic]) -> Pair:
    """The arrays for scales and zero points."""
    if out is None:
        return np.empty(shape, np.float32), np.empty(shape, np.int64)
    if not isinstance(out, tuple) or len(out) != 2:
        raise KernelTypeError(f"out must be a tuple of two arrays, got {type(out).__name__}")
    scale = output_array(out[0], shape, "float32", *inputs)
    return scale, output_array(out[1], shape, "int64", *inputs, scale)


def _fill(
    result: Pair, low: NDArray[np.float32], high: NDArray[np.float32], limits: tuple[int, int]
) -> Pair:
    """Writes the scales and zero points of ranges that lie in order."""
    smallest, steps = limits[0], limits[1] - limits[0]
    lowest = np.minimum(low, np.float32(0))
    # In float64, because the width of the range may leave float32.
    width = np.maximum(high, np.float32(0)).astype(np.float64) - lowest
    check_finite_channels(width)
    with np.errstate(under="ignore"):
        scale = np.maximum((width / steps).astype(np.float32), _SMALLEST_SCALE)
        scale = np.where(width == 0, np.float32(1), scale)
        place = np.minimum(np.rint(-lowest / scale), np.float32(steps))
    scales, zeros = result
    scales[...] = scale
    zeros[...] = smallest + place.astype(np.int64)
    return result
