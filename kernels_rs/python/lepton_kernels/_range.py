"""Ranges of values and the scales that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels import _native
from lepton_kernels._affine import IntegerName, integer_limits, storage_dtype, symmetric_limits
from lepton_kernels._arguments import (
    check_count,
    check_dtype,
    check_finite_channels,
    check_out,
    check_threads,
    normalise_axis,
    output_array,
    real_array,
)
from lepton_kernels._order import percentile_limits
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_SMALLEST_SCALE = np.finfo(np.float32).tiny


def minmax(
    x: ArrayLike,
    *,
    axis: int | None = None,
    out: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest value, of the tensor or of each channel.

    A NaN makes both results NaN, infinities count as values, and a zero result is +0.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        axis: The channel axis, which is kept; None reduces everything.
        out: Two C-contiguous float32 arrays of the result's shape, which are filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        Two float32 arrays: of shape ``(channels,)``, or of shape ``()`` without `axis`.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: There is no value to reduce, or the axis or `out` does not fit.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    shape = () if axis is None else (values.shape[axis],)
    if out is None:
        low, high = np.empty(shape, np.float32), np.empty(shape, np.float32)
    else:
        if not isinstance(out, tuple) or len(out) != 2:
            raise KernelTypeError(f"out must be a tuple of two arrays, got {type(out).__name__}")
        low, high = out
    flat_low, flat_high = _flat(low, shape), _flat(high, shape)
    _native.minmax(values, axis, flat_low, flat_high, check_threads(threads))
    return low, high


def absmax(
    x: ArrayLike,
    *,
    axis: int | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The largest magnitude, of the tensor or of each channel; NaN if there is one.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        axis: The channel axis, which is kept; None reduces everything.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        A float32 array: of shape ``(channels,)``, or of shape ``()`` without `axis`.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: There is no value to reduce, or the axis or `out` does not fit.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    shape = () if axis is None else (values.shape[axis],)
    result = np.empty(shape, np.float32) if out is None else out
    _native.absmax(values, axis, _flat(result, shape), check_threads(threads))
    return result


def _flat(out: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A one-dimensional view of an output, which the native code fills."""
    check_out(out)
    if out.shape != shape:
        raise KernelError(f"out has shape {out.shape}, needed is {shape}")
    return out.reshape(1) if not shape else out


def scale_symmetric(
    x: ArrayLike,
    dtype: IntegerName = "int8",
    *,
    axis: int | None = None,
    narrow: bool = True,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The scale of symmetric quantization: ``absmax / high`` in float32.

    `high` is the largest integer of the type (unsigned types are for values that are not negative).
    A channel of zeros has the scale 1; a scale below the smallest normal float32 is raised to that.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        dtype: The integers, see `integer_limits`.
        axis: The channel axis; None gives one scale for the whole tensor.
        narrow: Whether the smallest integer will be left out (signed types only). The scale is the
            same either way, because the range that both share decides it.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales of shape ``(channels,)``, or ``()`` without `axis`, fit for `quantize`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: There is no value, a value is NaN or infinite, or `out` does not fit.
    """
    _, high = symmetric_limits(dtype, narrow=narrow)
    values = np.asarray(x)
    return _symmetric_scale(absmax(values, axis=axis, threads=threads), high, out, values)


def scale_percentile(
    x: ArrayLike,
    percentile: float,
    dtype: IntegerName = "int8",
    *,
    axis: int | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The scale of symmetric quantization that clips the largest magnitudes.

    As `scale_symmetric`, with the magnitude of number ``max(1, ceil(n * percentile / 100))`` of the
    n magnitudes in ascending order in place of the largest: an exact order statistic, without
    interpolation.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        percentile: Above 0, up to 100; read as the decimal number that it prints as.
        dtype: The integers, see `integer_limits`.
        axis: The channel axis; None gives one scale for the whole tensor.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales of shape ``(channels,)``, or ``()`` without `axis`, fit for `quantize`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `percentile` is out of range, there is no value, a value is NaN, the
            magnitude found is infinite, or `out` does not fit.
    """
    _, high = integer_limits(dtype)
    values = np.asarray(x)
    _, magnitude = percentile_limits(
        values, percentile, axis=axis, magnitudes=True, threads=threads
    )
    return _symmetric_scale(magnitude, high, out, values)


def quantize_symmetric(
    x: ArrayLike,
    *,
    dtype: IntegerName = "int8",
    axis: int | None = None,
    narrow: bool = True,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Quantizes with the scales of `scale_symmetric`, found in the same pass over memory.

    The same as ``scale = scale_symmetric(x, dtype, axis=axis)`` followed by ``quantize(x, scale,
    dtype=dtype, axis=axis, narrow=narrow)``, bit for bit, at nearly the price of the second alone
    where a channel is contiguous and fits the cache.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite.
        dtype: The integers, see `quantize` (negative values give 0 if unsigned).
        axis: The channel axis; None uses one scale for the whole tensor.
        narrow: Leave out the smallest integer of a signed type; ignored for the others.
        out: As for `quantize`.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        The integers, and float32 scales of shape ``(channels,)``, or ``()`` without `axis`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: There is no value, a value is NaN or infinite, or `out` does not fit.
    """
    values = np.asarray(x)
    low, high = symmetric_limits(dtype, narrow=narrow)
    axis = normalise_axis(axis, values.ndim)
    shape = () if axis is None else (values.shape[axis],)
    check_out(out)
    storage = storage_dtype(dtype)
    result = np.empty(values.shape, storage) if out is None else out
    check_dtype(result, storage)
    scale = np.empty(shape, np.float32)
    _native.quantize_symmetric(
        values, axis, low, high, result, _flat(scale, shape), check_threads(threads)
    )
    return result, scale


def scale_from_absmax(
    magnitude: ArrayLike, high: int, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The rule of `scale_symmetric` for magnitudes that are already known.

    Args:
        magnitude: Magnitudes of any shape, finite and not negative; used as float32.
        high: The largest integer, at least 1.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.

    Returns:
        float32 scales of the same shape.

    Raises:
        KernelTypeError: Magnitudes are no real numbers, or `high` is no integer.
        KernelError: A magnitude is NaN, infinite or negative, `high` is below 1, or `out` does not
            fit.
    """
    largest, given = check_count("high", high, 1), np.asarray(magnitude)
    with np.errstate(over="ignore", under="ignore"):
        # What leaves float32's range becomes infinite and is refused as such.
        values = real_array("magnitude", given).astype(np.float32)
    if (values < 0).any():
        raise KernelError(f"magnitude is {values.min()}; accepted are numbers of at least 0")
    return _symmetric_scale(values, largest, out, given)


def _symmetric_scale(
    magnitude: NDArray[np.float32],
    high: int,
    out: NDArray[np.float32] | None,
    given: NDArray[Any],
) -> NDArray[np.float32]:
    """The rule itself; a magnitude that is NaN or infinite is refused."""
    scale = output_array(out, magnitude.shape, "float32", given)
    check_finite_channels(magnitude)
    with np.errstate(under="ignore"):
        np.divide(magnitude, np.float32(high), out=scale)
    np.maximum(scale, _SMALLEST_SCALE, out=scale)
    np.copyto(scale, np.float32(1), where=magnitude == 0)
    return scale
