"""Streams of integers of 1 to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_count, check_threads, output_array
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def _check_format(bits: int, offset: int, order: str) -> tuple[int, int, bool]:
    bits, offset = check_count("bits", bits, 1), check_count("offset", offset, 0)
    if bits > 8:
        raise KernelError(f"bits is {bits}; accepted are 1 to 8")
    if offset >= 2**bits:
        raise KernelError(f"offset is {offset}; accepted for {bits} bits are 0 to {2**bits - 1}")
    if order not in ("low", "high"):
        raise KernelError(f'order is {order!r}; accepted: "low", "high"')
    return bits, offset, order == "high"


def pack_bits(
    codes: ArrayLike,
    bits: int,
    *,
    offset: int = 0,
    order: Literal["low", "high"] = "low",
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Packs integers of few bits along the last axis into a stream of bits.

    Integer ``i`` of a row takes the bits from ``i * bits`` on, counted from the lowest bit of the
    first byte ("low") or from the highest ("high"); where `bits` does not divide 8, integers cross
    from a byte to the next. The last byte of a row is filled up with zeros. The definition page
    says which consumer reads which order.

    Args:
        codes: int8 in ``-2^(bits-1)..2^(bits-1)-1`` or uint8 in ``0..2^bits-1``, of shape
            ``(..., n)``. Formats that pack the flattened tensor take ``codes.reshape(-1)``.
        bits: 1 to 8.
        offset: Added to each integer modulo ``2^bits``: 0 for two's complement, ``2^(bits-1)`` for
            unsigned integers with that zero point.
        order: "low" or "high".
        out: A C-contiguous uint8 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        uint8 of shape ``(..., ceil(n * bits / 8))``.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: An integer has more bits, or a number or `out` does not fit.
    """
    bits, offset, high_first = _check_format(bits, offset, order)
    integers = np.asarray(codes)
    if integers.dtype not in (np.int8, np.uint8):
        raise KernelTypeError(f"dtype {integers.dtype} is not supported; accepted: int8, uint8")
    if integers.ndim == 0:
        raise KernelError("codes has no dimension; packing needs at least one")
    signed = integers.dtype == np.int8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if integers.size and (integers.min() < low or integers.max() > high):
        raise KernelError(
            f"integers from {integers.min()} to {integers.max()} do not fit {bits} bits; accepted "
            f"are {low} to {high} for {integers.dtype}"
        )
    *outer, n = integers.shape
    result = output_array(out, (*outer, -(-n * bits // 8)), "uint8", integers)
    flat = np.ascontiguousarray(integers).view(np.uint8).reshape(-1)
    if flat.size:
        _native.pack_bits(flat, n, bits, offset, high_first, result, check_threads(threads))
    return result


def unpack_bits(
    packed: ArrayLike,
    bits: int,
    length: int,
    *,
    signed: bool = False,
    offset: int = 0,
    order: Literal["low", "high"] = "low",
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """The inverse of `pack_bits`.

    Args:
        packed: uint8 of shape ``(..., ceil(length * bits / 8))``.
        bits: 1 to 8.
        length: The length of the last axis of the result.
        signed: Whether the integers are signed (int8) or not (uint8).
        offset: What was added as they were packed.
        order: As they were packed.
        out: A C-contiguous array like the result, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        uint8, or int8 if `signed`, of shape ``(..., length)``.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: A number, a shape or `out` does not fit.
    """
    bits, offset, high_first = _check_format(bits, offset, order)
    data = np.asarray(packed)
    if data.dtype != np.uint8:
        raise KernelTypeError(f"dtype {data.dtype} is not supported; accepted: uint8")
    n = check_count("length", length, 0)
    needed = -(-n * bits // 8)
    if data.ndim == 0 or data.shape[-1] != needed:
        raise KernelError(
            f"packed has shape {data.shape}; for {n} integers of {bits} bits the last axis must be "
            f"{needed}"
        )
    result = output_array(out, (*data.shape[:-1], n), "int8" if signed else "uint8", data)
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.size:
        _native.unpack_bits(
            flat,
            n,
            bits,
            offset,
            signed,
            high_first,
            result.view(np.uint8),
            check_threads(threads),
        )
    return result
