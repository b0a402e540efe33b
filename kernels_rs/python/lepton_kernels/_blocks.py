"""Quantization to few bits in blocks along the last axis, and packing of 4-bit integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._affine import dequantize
from lepton_kernels._arguments import (
    check_count,
    check_dtype,
    check_out,
    check_threads,
    normalise_axis,
)
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
        zero_point: uint8 of the same shape; None unless asymmetric.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None


def quantize_blocks(
    x: ArrayLike,
    block_size: int = 32,
    *,
    bits: int = 4,
    scheme: SchemeName = "signed_max",
    clip: Literal["range", "mse"] = "range",
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

    Integers are ``clip(rint(x / scale) + zero_point)`` with float32 division and ties to even.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite.
        block_size: Values in a block; the last block of a row may have fewer.
        bits: 2 to 8.
        scheme: The rule for scales.
        clip: "range": the scale is that of the rule. "mse": a search lowers the squared error by
            clipping the ends of the range, or by using one integer less (see the definition page);
            the zero point of "asymmetric" moves along. It takes about ten times as long.
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
        KernelError: A number or `out` does not fit, or a block holds NaN or infinite values.
    """
    values = np.asarray(x)
    if values.ndim == 0:
        raise KernelError("x has no dimension; blocks need at least one")
    check_scheme(scheme)
    if clip not in ("range", "mse"):
        raise KernelError(f'clip is {clip!r}; accepted: "range", "mse"')
    size = check_count("block_size", block_size, 1)
    offset = _check_offset(offset)
    if offset and (not packed or scheme == "asymmetric"):
        raise KernelError("offset applies to packed, symmetric integers only")
    asymmetric = scheme == "asymmetric"
    *outer, n = values.shape
    blocks = -(-n // size)
    shape = (*outer, blocks, size // 2) if packed else values.shape
    dtype = "uint8" if packed or asymmetric else "int8"
    check_out(out)
    codes = np.empty(shape, dtype) if out is None else out
    check_dtype(codes, dtype)
    if codes.shape != shape:
        raise KernelError(f"out has shape {codes.shape}, needed is {shape}")
    scale = np.empty((*outer, blocks), np.float32)
    zero = np.empty((*outer, blocks), np.uint8)
    _native.quantize_blocks(
        values,
        check_count("bits", bits, 2),
        size,
        scheme,
        clip == "mse",
        offset if packed else None,
        codes.view(np.uint8),
        scale,
        zero,
        check_threads(threads),
    )
    return BlockQuantized(codes, scale, zero if asymmetric else None)


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
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales and zero points of least squared error, of the tensor or of each channel.

    The search of ``quantize_blocks(..., clip="mse")`` with every channel as one block. With the
    defaults the result is fit for ``quantize(x, *scale_mse(x, axis=0), axis=0, narrow=True)``.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite. Channels that do
            not lie in one piece are copied.
        bits: 2 to 8.
        axis: The channel axis; None takes the whole tensor (on one thread).
        scheme: "absmax": integers ``1 - half..half - 1``; "signed_max": ``-half..half - 1``, and
            the scale may be negative; "asymmetric": ``0..2 ** bits - 1``.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 scales and int64 zero points (0 unless asymmetric) of shape ``(channels,)``, or
        ``()`` without `axis`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A number does not fit, there is no value, or a value is NaN or infinite.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    shape = () if axis is None else (values.shape[axis],)
    channels = 1 if axis is None else values.shape[axis]
    if channels and not values.size:
        raise KernelError("there is no value to take a scale from; give at least one per channel")
    front = values if axis is None else np.moveaxis(values, axis, 0)
    rows = front.reshape(channels, values.size // max(channels, 1))
    found = quantize_blocks(
        rows, max(rows.shape[1], 1), bits=bits, scheme=scheme, clip="mse", threads=threads
    )
    zero = np.zeros(shape) if found.zero_point is None else found.zero_point
    return found.scale.reshape(shape), zero.reshape(shape).astype(np.int64)


def dequantize_blocks(
    codes: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    block_size: int = 32,
    *,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The inverse map of `quantize_blocks`: ``(code - zero_point) * scale`` of the block.

    Args:
        codes: int8 or uint8 integers of shape ``(..., n)``, not packed.
        scale: Scales of shape ``(..., ceil(n / block_size))``.
        zero_point: Zero points of the same shape; None for 0.
        block_size: Values in a block.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        float32 values of the shape of `codes`.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, scale or zero point does not fit.
    """
    integers, scales = np.asarray(codes), np.asarray(scale)
    size = check_count("block_size", block_size, 1)
    if integers.ndim == 0:
        raise KernelError("codes has no dimension; blocks need at least one")
    *outer, n = integers.shape
    blocks = -(-n // size)
    zeros = np.zeros(scales.shape, np.int64) if zero_point is None else np.asarray(zero_point)
    for name, given in (("scale", scales), ("zero_point", zeros)):
        if given.shape != (*outer, blocks):
            raise KernelError(f"{name} has shape {given.shape}, needed is {(*outer, blocks)}")
    if n % size:
        padding = [(0, 0)] * len(outer) + [(0, blocks * size - n)]
        integers = np.pad(integers, padding)
    rows = integers.reshape(-1, size)
    values = dequantize(rows, scales.reshape(-1), zeros.reshape(-1), axis=0, threads=threads)
    whole = values.reshape(*outer, blocks * size)
    return whole if n % size == 0 else np.ascontiguousarray(whole[..., :n])


def _check_offset(offset: int) -> int:
    value = check_count("offset", offset, 0)
    if value > 15:
        raise KernelError(f"offset is {value}; accepted are 0 to 15")
    return value


def pack_int4(
    codes: ArrayLike,
    *,
    offset: int = 0,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Packs 4-bit integers along the last axis, two to a byte, the first in the low half.

    A row of odd length ends with a high half of 0. ONNX packs the flattened tensor: pass
    ``codes.reshape(-1)``.

    Args:
        codes: int8 in -8..7 or uint8 in 0..15, of shape ``(..., n)``.
        offset: Added modulo 16 to each integer: 0 for two's complement, 8 for unsigned integers
            with zero point 8.
        out: A C-contiguous uint8 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        uint8 of shape ``(..., ceil(n / 2))``.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: An integer has more than 4 bits, or `out` does not fit.
    """
    integers = np.asarray(codes)
    if integers.dtype not in (np.int8, np.uint8):
        raise KernelTypeError(f"dtype {integers.dtype} is not supported; accepted: int8, uint8")
    if integers.ndim == 0:
        raise KernelError("codes has no dimension; packing needs at least one")
    low, high = (-8, 7) if integers.dtype == np.int8 else (0, 15)
    if integers.size and (integers.min() < low or integers.max() > high):
        raise KernelError(
            f"integers from {integers.min()} to {integers.max()} do not fit 4 bits; accepted are "
            f"{low} to {high} for {integers.dtype}"
        )
    *outer, n = integers.shape
    result = _packed_out(out, (*outer, -(-n // 2)))
    flat = np.ascontiguousarray(integers).view(np.uint8).reshape(-1)
    if flat.size:
        _native.pack_int4(flat, n, _check_offset(offset), result, check_threads(threads))
    return result


def unpack_int4(
    packed: ArrayLike,
    length: int,
    *,
    signed: bool = True,
    offset: int = 0,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """The inverse of `pack_int4`.

    Args:
        packed: uint8 of shape ``(..., ceil(length / 2))``.
        length: The length of the last axis of the result.
        signed: Whether the integers are -8..7 (int8) or 0..15 (uint8).
        offset: What was added as they were packed.
        out: A C-contiguous array like the result, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        int8, or uint8 if not `signed`, of shape ``(..., length)``.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: A shape or `out` does not fit.
    """
    data = np.asarray(packed)
    if data.dtype != np.uint8:
        raise KernelTypeError(f"dtype {data.dtype} is not supported; accepted: uint8")
    n = check_count("length", length, 0)
    if data.ndim == 0 or data.shape[-1] != -(-n // 2):
        raise KernelError(
            f"packed has shape {data.shape}; for length {n} the last axis must be {-(-n // 2)}"
        )
    shape = (*data.shape[:-1], n)
    dtype = "int8" if signed else "uint8"
    check_out(out)
    result = np.empty(shape, dtype) if out is None else out
    check_dtype(result, dtype)
    if result.shape != shape:
        raise KernelError(f"out has shape {result.shape}, needed is {shape}")
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.size:
        bits = result.view(np.uint8)
        _native.unpack_int4(flat, n, _check_offset(offset), signed, bits, check_threads(threads))
    return result


def _packed_out(out: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    check_out(out)
    if out is None:
        return np.empty(shape, np.uint8)
    check_dtype(out, "uint8")
    if out.shape != shape:
        raise KernelError(f"out has shape {out.shape}, needed is {shape}")
    return out
