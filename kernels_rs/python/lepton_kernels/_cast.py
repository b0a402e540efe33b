"""Casts to floating point of 16 and 8 bits that say what they lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import check_out, check_threads
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class CastResult(NamedTuple):
    """The outcome of `cast_float`.

    Attributes:
        values: The converted values, C-contiguous.
        overflow: Finite values beyond the largest finite result.
        underflow: Values other than 0 that became 0.
    """

    values: NDArray[Any]
    overflow: int
    underflow: int


_STORED: dict[str, tuple[str, ...]] = {
    "float16": ("float16",),
    "bfloat16": ("uint16", "bfloat16"),
    "float8_e4m3fn": ("uint8", "float8_e4m3fn"),
    "float8_e5m2": ("uint8", "float8_e5m2"),
}
"""The dtypes that an output of each format may have; NumPy itself knows the first."""


def cast_float(
    x: ArrayLike,
    dtype: Literal["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"],
    *,
    saturate: bool = False,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> CastResult:
    """Rounds to a smaller float: to nearest, ties to even, with gradual underflow.

    NaN stays NaN (quiet, of the same sign). Infinities stay infinite in 16 bits. In 8 bits they
    become the largest finite value with `saturate`; without it they stay (E5M2) or become NaN
    (E4M3FN, which has no infinity), as values that overflow do.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        dtype: "float16" (IEEE 754 binary16), "bfloat16", "float8_e4m3fn" or "float8_e5m2".
        saturate: Turn finite values that overflow into the largest finite value of their sign
            instead of an infinity (or NaN). They are counted either way.
        out: A C-contiguous array of the shape of `x`, which is filled and returned: of the format,
            as ml_dtypes has it, or for its bits uint16 (bfloat16) or uint8 (8 bits).
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        The values and the counts. NumPy has float16 alone: without `out` the bits of the others
        come as uint16 or uint8, which ``.view(ml_dtypes.bfloat16)`` reads without a copy.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `out` does not fit.
    """
    values = np.asarray(x)
    if dtype not in _STORED:
        raise KernelTypeError(f"dtype {dtype!r} is not supported; accepted: {', '.join(_STORED)}")
    check_out(out)
    accepted = _STORED[dtype]
    result = np.empty(values.shape, accepted[0]) if out is None else out
    if result.dtype.name not in accepted or not result.dtype.isnative:
        raise KernelError(f"out has dtype {result.dtype}, needed is {' or '.join(accepted)}")
    bits = result.view(np.uint8 if result.itemsize == 1 else np.uint16)
    overflow, underflow = _native.cast_float(values, dtype, saturate, bits, check_threads(threads))
    return CastResult(result, overflow, underflow)
