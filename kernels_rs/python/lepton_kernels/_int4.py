"""Packing of 4-bit integers, two to a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_count, check_threads, output_array
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def check_offset(offset: int) -> int:
    """A number that 4-bit integers can be shifted by."""
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
    result = output_array(out, (*outer, -(-n // 2)), "uint8", integers)
    flat = np.ascontiguousarray(integers).view(np.uint8).reshape(-1)
    if flat.size:
        _native.pack_int4(flat, n, check_offset(offset), result, check_threads(threads))
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
    result = output_array(out, shape, "int8" if signed else "uint8", data)
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.size:
        bits = result.view(np.uint8)
        _native.unpack_int4(flat, n, check_offset(offset), signed, bits, check_threads(threads))
    return result
