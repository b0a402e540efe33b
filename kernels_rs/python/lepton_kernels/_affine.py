"""Affine quantization to integers of 2, 3, 4, 8 and 16 bits and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_dtype,
    check_out,
    check_seed,
    check_threads,
    normalise_axis,
    scale_parameter,
    zero_point_parameter,
)
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

IntegerName = Literal[
    "int2", "uint2", "int3", "uint3", "int4", "uint4", "int8", "uint8", "int16", "uint16"
]
RoundingName = Literal["half_even", "half_away", "stochastic"]

_LIMITS: dict[str, tuple[int, int]] = {
    "int2": (-2, 1),
    "uint2": (0, 3),
    "int3": (-4, 3),
    "uint3": (0, 7),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
_ACCEPTED = ", ".join(_LIMITS)
_ROUNDINGS = ("half_even", "half_away", "stochastic")


def integer_limits(dtype: str, *, narrow: bool = False) -> tuple[int, int]:
    """The smallest and the largest integer of a quantized type.

    Args:
        dtype: "int2", "int3", "int4", "int8", "int16", or one of these with a "u" in front.
        narrow: Leave out the smallest, so that the range is symmetric (signed types only).

    Returns:
        The limits, both inclusive.

    Raises:
        KernelTypeError: The type is not supported.
        KernelError: `narrow` with an unsigned type.
    """
    try:
        # The usual names skip the slow way through NumPy's types.
        name = dtype if dtype in _LIMITS else np.dtype(dtype).name
    except TypeError as error:
        raise KernelTypeError(f"dtype {dtype!r} is not a type; accepted: {_ACCEPTED}") from error
    if name not in _LIMITS:
        raise KernelTypeError(f"dtype {dtype!r} is not supported; accepted: {_ACCEPTED}")
    low, high = _LIMITS[name]
    if not narrow:
        return low, high
    if low == 0:
        raise KernelError(f"narrow needs a signed dtype, got {name}")
    return low + 1, high


def storage_dtype(dtype: str) -> str:
    """The NumPy type that holds the integers of a quantized type, one in each element."""
    low, high = integer_limits(dtype)
    return ("int" if low else "uint") + ("8" if high - low < 256 else "16")


def symmetric_limits(dtype: str, *, narrow: bool) -> tuple[int, int]:
    """As `integer_limits`, where `narrow` does not matter to unsigned types."""
    low, high = integer_limits(dtype)
    return (low + 1 if narrow and low < 0 else low), high


def quantize(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: IntegerName = "int8",
    axis: int | None = None,
    narrow: bool = False,
    nan: Literal["raise", "zero_point"] = "raise",
    rounding: RoundingName = "half_even",
    seed: int = 0,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Quantizes to integers: ``saturate(round(x / scale) + zero_point)``.

    The division is float32 and is not replaced by a multiplication with the reciprocal; the result
    equals ``clip(rint(x / scale) + zero_point, low, high)`` bit for bit, as ONNX QuantizeLinear
    defines it, unless another rule of `rounding` is chosen.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        scale: One value, or one per channel along `axis`; used as float32. Finite and not
            denormal; it may be negative, as that of `scale_signed_max`.
        zero_point: An integer, or one per channel along `axis`, within the integer range.
        dtype: The integers, see `integer_limits`. Those of fewer than 8 bits lie one to a byte in
            int8 or uint8, fit for `pack_bits`.
        axis: The channel axis; None quantizes the whole tensor with one scale.
        narrow: For signed types: leave out the smallest integer (int8: -127..127).
        nan: What to do with NaN: "raise", or write the zero point ("zero_point").
        rounding: "half_even" rounds to nearest, ties to even; "half_away" ties away from zero;
            "stochastic" rounds up with the probability of the fraction, so that the mean of many
            results is the value itself (within the limits).
        seed: 0 to 2^64 - 1, for "stochastic" alone: the same seed, values and shape give the same
            integers on every machine.
        out: A C-contiguous array of `dtype` (of int8 or uint8 for fewer bits) and of the shape of
            `x`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        The integers, C-contiguous, of the shape of `x`. Infinities saturate.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, scale, zero point or `out` does not fit, or `x` holds NaN (then `out`
            is complete, with the zero point in their place).
    """
    values = np.asarray(x)
    arguments = _affine_arguments(
        values, scale, zero_point, dtype=dtype, axis=axis, narrow=narrow, nan=nan
    )
    rule = check_rounding(rounding, seed)
    check_out(out)
    storage = storage_dtype(dtype)
    result = np.empty(values.shape, storage) if out is None else out
    check_dtype(result, storage)
    _native.quantize(values, *arguments, *rule, result, check_threads(threads))
    return result


def check_rounding(rounding: str, seed: int) -> tuple[str, int]:
    """A rule of rounding that exists, and a seed that it uses."""
    if rounding not in _ROUNDINGS:
        raise KernelError(f"rounding is {rounding!r}; accepted: {', '.join(_ROUNDINGS)}")
    number = check_seed(seed)
    if number and rounding != "stochastic":
        raise KernelError(f'seed is {number}, which only rounding="stochastic" uses')
    return rounding, number


def _affine_arguments(
    values: NDArray[Any],
    scale: ArrayLike,
    zero_point: ArrayLike,
    *,
    dtype: str,
    axis: int | None,
    narrow: bool,
    nan: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64], int | None, int, int, bool]:
    """What the native kernels of quantization take between the input and the output."""
    low, high = integer_limits(dtype, narrow=narrow)
    if nan not in ("raise", "zero_point"):
        raise KernelError(f'nan is {nan!r}; accepted: "raise", "zero_point"')
    axis = normalise_axis(axis, values.ndim)
    channels = None if axis is None else values.shape[axis]
    scales = scale_parameter(scale, channels)
    zeros = zero_point_parameter(zero_point, channels)
    return scales, zeros, axis, low, high, nan != "raise"


def fake_quantize(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: IntegerName = "int8",
    axis: int | None = None,
    narrow: bool = False,
    nan: Literal["raise", "zero_point"] = "raise",
    rounding: RoundingName = "half_even",
    seed: int = 0,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Quantizes and maps back in one pass: the values that the integers stand for.

    The same as ``dequantize(quantize(x, ...), ...)`` with the same arguments, bit for bit.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        scale: As for `quantize`.
        zero_point: As for `quantize`.
        dtype: The integers, see `integer_limits`.
        axis: The channel axis; None uses one scale for the whole tensor.
        narrow: For signed types: leave out the smallest integer.
        nan: What to do with NaN: "raise", or write 0 ("zero_point").
        rounding: As for `quantize`.
        seed: As for `quantize`.
        out: A C-contiguous float32 array of the shape of `x`, apart from it, which is filled and
            returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 values, C-contiguous, of the shape of `x`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, scale, zero point or `out` does not fit, or `x` holds NaN.
    """
    values = np.asarray(x)
    arguments = _affine_arguments(
        values, scale, zero_point, dtype=dtype, axis=axis, narrow=narrow, nan=nan
    )
    rule = check_rounding(rounding, seed)
    check_out(out)
    result = np.empty(values.shape, np.float32) if out is None else out
    _native.fake_quantize(values, *arguments, *rule, result, check_threads(threads))
    return result


def dequantize(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    axis: int | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Maps integers back to real values: ``(q - zero_point) * scale`` in float32.

    The difference is exact and the product is rounded once (for int32 the conversion to float32
    rounds too), as ONNX DequantizeLinear defines it.

    Args:
        q: int8, uint8, int16, uint16 or int32 values of any shape and strides; integers of fewer
            bits lie in int8 or uint8, as `quantize` returns them.
        scale: One value, or one per channel along `axis`; used as float32. Finite and not
            denormal; it may be negative.
        zero_point: An integer, or one per channel along `axis`, within the range of the type of
            `q`; 0 for int32.
        axis: The channel axis; None uses one scale for the whole tensor.
        out: A C-contiguous float32 array of the shape of `q`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 values, C-contiguous, of the shape of `q`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, scale, zero point or `out` does not fit.
    """
    codes = np.asarray(q)
    axis = normalise_axis(axis, codes.ndim)
    channels = None if axis is None else codes.shape[axis]
    scales = scale_parameter(scale, channels)
    zeros = zero_point_parameter(zero_point, channels)
    check_out(out)
    result = np.empty(codes.shape, np.float32) if out is None else out
    _native.dequantize(codes, scales, zeros, axis, result, check_threads(threads))
    return result
