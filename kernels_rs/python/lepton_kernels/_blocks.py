"""Quantization to few bits in blocks along the last axis, and packing of 4-bit integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._affine import RoundingName, check_rounding, dequantize
from lepton_kernels._arguments import (
    check_count,
    check_threads,
    normalise_axis,
    output_array,
)
from lepton_kernels._int4 import check_offset
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SchemeName = Literal["signed_max", "absmax", "asymmetric"]

_SCHEMES = ("signed_max", "absmax", "asymmetric")


class BlockQuantized(NamedTuple):
    """The outcome of `quantize_blocks` for an input of shape ``(..., n)``.

    Attributes:
        codes: int8 (uint8 if asymmetric) of shape ``(..., n)``; packed: uint8 of shape
            ``(..., blocks, block_size / 2)``.
        scale: float32 of shape ``(..., blocks)``, where ``blocks = ceil(n / block_size)``.
        zero_point: uint8 (or float32, if asked for) of the same shape; None unless asymmetric.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any] | None


def quantize_blocks(
    x: ArrayLike,
    block_size: int = 32,
    *,
    bits: int = 4,
    scheme: SchemeName = "signed_max",
    clip: Literal["range", "mse"] = "range",
    zero_point: Literal["integer", "float"] = "integer",
    rounding: RoundingName = "half_even",
    seed: int = 0,
    packed: bool = False,
    offset: int = 0,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> BlockQuantized:
    """Quantizes blocks of consecutive values along the last axis, each with its own scale.

    With ``half = 2 ** (bits - 1)``:

    * "signed_max": the value of largest magnitude becomes ``-half``; its scale may be negative
      (``scale = extreme / -half``, integers ``-half..half - 1``; a tie takes the negative value).
    * "absmax": ``scale = absmax / (half - 1)``, integers ``1 - half..half - 1``.
    * "asymmetric": ``scale = (max - min) / (2 * half - 1)`` over a range that holds 0,
      ``zero_point = rint(-min / scale)``, integers ``0..2 * half - 1``.

    Integers are ``clip(rint(x / scale) + zero_point)`` with float32 division and ties to even,
    unless another rule of `rounding` is chosen.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite.
        block_size: Values in a block; the last block of a row may have fewer.
        bits: 2 to 8.
        scheme: The rule for scales.
        clip: "range": the scale is that of the rule. "mse": a search lowers the squared error by
            clipping the ends of the range, or by using one integer less (see the definition page);
            the zero point of "asymmetric" moves along. It takes about ten times as long.
        zero_point: Of "asymmetric": "integer", or "float" for a float32 number, as MatMulNBits of
            ONNX Runtime and HQQ have it. The range then need not hold 0, integers are
            ``clip(rint(x / scale + zero_point))``, and ``clip="mse"`` fits scale and zero point by
            least squares, for a smaller error. Blocks of up to 4096 values, half to even alone.
        rounding: "half_even", "half_away" or "stochastic", as for `quantize`; random words go by
            the index in all of `x` (C order). Scales do not depend on it.
        seed: 0 to 2^64 - 1, for "stochastic" alone.
        packed: Pack two 4-bit integers to a byte, the first in the low half; the last block of a
            row is filled up with the integer that stands for 0. Needs an even `block_size`.
        offset: Added modulo 16 to each integer as it is packed: 0 for two's complement (ONNX
            INT4), 8 for unsigned integers with zero point 8 (MatMulNBits of ONNX Runtime).
        out: A C-contiguous array like `codes` of the result, which is filled and returned in it.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        Integers, scales and zero points.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A number, a choice or `out` does not fit, or a block holds NaN or infinite
            values.
    """
    values = np.asarray(x)
    if values.ndim == 0:
        raise KernelError("x has no dimension; blocks need at least one")
    check_scheme(scheme)
    check_choice("clip", clip, ("range", "mse"))
    check_choice("zero_point", zero_point, ("integer", "float"))
    size = check_count("block_size", block_size, 1)
    offset = check_offset(offset)
    if offset and (not packed or scheme == "asymmetric"):
        raise KernelError("offset applies to packed, symmetric integers only")
    *outer, n = values.shape
    blocks = (*outer, -(-n // size))
    shape = (*blocks, size // 2) if packed else values.shape
    dtype = "uint8" if packed or scheme == "asymmetric" else "int8"
    codes = output_array(out, shape, dtype, values)
    scale = np.empty(blocks, np.float32)
    zero = np.empty(blocks, np.float32 if zero_point == "float" else np.uint8)
    _native.quantize_blocks(
        values,
        check_count("bits", bits, 2),
        size,
        scheme,
        clip == "mse",
        *check_rounding(rounding, seed),
        offset if packed else None,
        codes.view(np.uint8),
        scale,
        zero,
        check_threads(threads),
    )
    return BlockQuantized(codes, scale, zero if scheme == "asymmetric" else None)


def check_choice(name: str, given: str, accepted: tuple[str, ...]) -> None:
    """Refuses a name that stands for nothing."""
    if given not in accepted:
        names = ", ".join(f'"{choice}"' for choice in accepted)
        raise KernelError(f"{name} is {given!r}; accepted: {names}")


def check_scheme(scheme: str) -> None:
    """Refuses a rule for scales that does not exist."""
    if scheme not in _SCHEMES:
        raise KernelError(f"scheme is {scheme!r}; accepted: {', '.join(_SCHEMES)}")


def scale_mse(
    x: ArrayLike,
    bits: int = 8,
    *,
    axis: int | None = None,
    scheme: SchemeName = "absmax",
    out: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales and zero points of least squared error, of the tensor or of each channel.

    The search of ``quantize_blocks(..., clip="mse")`` with every channel as one block. With the
    defaults the result is fit for ``quantize(x, *scale_mse(x, axis=0), axis=0, narrow=True)``.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite.
        bits: 2 to 16.
        axis: The channel axis; None takes the whole tensor.
        scheme: "absmax": integers ``1 - half..half - 1``; "signed_max": ``-half..half - 1``, and
            the scale may be negative; "asymmetric": ``0..2 ** bits - 1``. For the signed type of
            as many bits subtract ``half`` from the zero points of "asymmetric".
        out: A tuple of C-contiguous arrays of the result's shape, float32 and int64, which are
            filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales and int64 zero points (0 unless asymmetric) of shape ``(channels,)``, or
        ``()`` without `axis`.

    Raises:
        KernelTypeError: A dtype is not supported, or `out` is no tuple of two arrays.
        KernelError: A number or `out` does not fit, there is no value, or a value is NaN or
            infinite.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    check_scheme(scheme)
    front = values if axis is None else np.moveaxis(values, axis, 0)
    shape = () if axis is None else front.shape[:1]
    channels = 1 if axis is None else front.shape[0]
    if channels and not values.size:
        raise KernelError("there is no value to take a scale from; give at least one per channel")
    if out is not None and not (isinstance(out, tuple) and len(out) == 2):
        raise KernelTypeError(f"out must be a tuple of two arrays, got {type(out).__name__}")
    given_scale, given_zero = out or (None, None)
    scale = output_array(given_scale, shape, "float32", values)
    zero_point = output_array(given_zero, shape, "int64", values, scale)
    zero = np.empty(channels, np.uint16)
    _native.search_scales(
        front,
        check_count("bits", bits, 2),
        max(values.size // max(channels, 1), 1),
        scheme,
        scale.reshape(-1),
        zero,
        check_threads(threads),
    )
    zero_point[...] = zero.reshape(shape)
    return scale, zero_point


def dequantize_blocks(
    codes: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    block_size: int = 32,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The inverse map of `quantize_blocks`: ``(code - zero_point) * scale`` of the block.

    Args:
        codes: int8 or uint8 integers of shape ``(..., n)``, not packed.
        scale: Scales of shape ``(..., ceil(n / block_size))``.
        zero_point: Zero points of the same shape, integers or float32; None for 0.
        block_size: Values in a block.
        out: A C-contiguous float32 array of the shape of `codes`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. With
            float32 zero points NumPy does the work, on one thread.

    Returns:
        float32 values of the shape of `codes`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape or `out` does not fit, a scale is not finite or below 2^-126 in
            magnitude, or a zero point is not finite or out of range.
    """
    integers, scales = np.asarray(codes), np.asarray(scale)
    size = check_count("block_size", block_size, 1)
    if integers.ndim == 0:
        raise KernelError("codes has no dimension; blocks need at least one")
    *outer, n = integers.shape
    size = min(size, max(n, 1))  # the one block of short rows is not filled up to its full length
    blocks = -(-n // size)
    zeros = np.zeros(scales.shape, np.int64) if zero_point is None else np.asarray(zero_point)
    for name, given in (("scale", scales), ("zero_point", zeros)):
        if given.shape != (*outer, blocks):
            raise KernelError(f"{name} has shape {given.shape}, needed is {(*outer, blocks)}")
    values = output_array(out, integers.shape, "float32", integers, scales, zeros)
    whole = values
    if n % size:
        padding = [(0, 0)] * len(outer) + [(0, blocks * size - n)]
        integers = np.pad(integers, padding)
        whole = np.empty(integers.shape, np.float32)
    rows, filled = integers.reshape(-1, size), whole.reshape(-1, size)
    if zeros.dtype == np.float32:
        _dequantize_float(rows, scales.reshape(-1, 1), zeros.reshape(-1, 1), filled)
    else:
        parameters = scales.reshape(-1), zeros.reshape(-1)
        dequantize(rows, *parameters, axis=0, out=filled, threads=threads)
    if whole is not values:
        values[...] = whole[..., :n]
    return values


def _dequantize_float(
    rows: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """``(row - zero) * scale`` in float32, for zero points that are no integers."""
    if rows.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32:
        raise KernelTypeError(
            f"codes have dtype {rows.dtype} and scales {scale.dtype}; with float zero points "
            "needed are int8 or uint8, and float32"
        )
    bad = ~(np.isfinite(scale) & (np.abs(scale) >= np.finfo(np.float32).tiny))
    if bad.any():
        raise KernelError(
            f"scale is {scale[bad][0]} for block {np.flatnonzero(bad)[0]} of {scale.size}; "
            "accepted are finite scales of at least 2^-126 in magnitude"
        )
    bad = ~np.isfinite(zero)
    if bad.any():
        raise KernelError(
            f"zero_point is {zero[bad][0]} for block {np.flatnonzero(bad)[0]} of {zero.size}; "
            "accepted are finite numbers"
        )
    with np.errstate(over="ignore"):  # what rounds past the largest float is infinite, as elsewhere
        np.subtract(rows, zero, out=out)
        np.multiply(out, scale, out=out)
