"""Integer products as CPUs without VNNI compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_out, check_threads
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class IntegerProduct(NamedTuple):
    """The outcome of `matmul_u8s8`.

    Attributes:
        values: int32 sums of shape ``(m, n)``.
        saturated: Pairs of products whose sum does not fit 16 bits.
    """

    values: NDArray[np.int32]
    saturated: int


def matmul_u8s8(
    a: ArrayLike,
    b: ArrayLike,
    *,
    saturate16: bool,
    out: NDArray[np.int32] | None = None,
    threads: int | None = None,
) -> IntegerProduct:
    """Multiplies unsigned by signed 8-bit integers, exactly or with 16-bit sums of pairs.

    The instruction ``vpmaddubsw`` adds the products of places ``2 i`` and ``2 i + 1`` and cuts the
    sum to -32768..32767 before it joins a 32-bit sum. Kernels for CPUs without VNNI use it, so that
    large activations times large weights come out wrong there and right elsewhere; this shows where
    and how much. Weights within -64..63 never saturate.

    Args:
        a: uint8 of shape ``(m, k)``, of any strides.
        b: int8 of shape ``(k, n)``, of any strides.
        saturate16: Cut the sums of pairs; otherwise sums are exact.
        out: A C-contiguous int32 array of shape ``(m, n)``, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        The sums, and how many pairs do not fit 16 bits, whether they were cut or not.

    Raises:
        KernelTypeError: A dtype is another one.
        KernelError: A shape or `out` does not fit, or sums of `k` products might leave int32.
    """
    left, right = np.asarray(a), np.asarray(b)
    for name, array, dtype in (("a", left, np.uint8), ("b", right, np.int8)):
        if array.dtype != dtype:
            raise KernelTypeError(f"{name} has dtype {array.dtype}, needed is {np.dtype(dtype)}")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise KernelError(
            f"a has shape {left.shape} and b {right.shape}; needed are (m, k) and (k, n)"
        )
    shape, k = (left.shape[0], right.shape[1]), left.shape[1]
    check_out(out)
    result = np.empty(shape, np.int32) if out is None else out
    if result.shape != shape:
        raise KernelError(f"out has shape {result.shape}, needed is {shape}")
    rows = np.ascontiguousarray(left).reshape(-1)
    columns = np.ascontiguousarray(right.T).reshape(-1)
    saturated = _native.matmul_u8s8(rows, columns, k, saturate16, result, check_threads(threads))
    return IntegerProduct(result, saturated)
