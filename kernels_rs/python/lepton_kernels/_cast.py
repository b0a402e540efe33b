"""Casts to 16-bit floating point that say what they lost."""

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


def cast_float(
    x: ArrayLike,
    dtype: Literal["float16", "bfloat16"],
    *,
    saturate: bool = False,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> CastResult:
    """Rounds to a 16-bit float: to nearest, ties to even, with gradual underflow.

    Infinities stay infinite and NaN stays NaN (quiet, of the same sign).

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        dtype: "float16" (IEEE 754 binary16) or "bfloat16".
        saturate: Turn finite values that overflow into the largest finite value of their sign
            instead of an infinity. They are counted either way.
        out: A C-contiguous array of the shape of `x`, which is filled and returned: float16 for
            "float16"; uint16 or ml_dtypes.bfloat16 for "bfloat16".
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        The values and the counts. NumPy has no bfloat16: without `out` its bits come as uint16,
        which ``.view(ml_dtypes.bfloat16)`` reads without a copy.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `out` does not fit.
    """
    values = np.asarray(x)
    if dtype not in ("float16", "bfloat16"):
        raise KernelTypeError(f"dtype {dtype!r} is not supported; accepted: float16, bfloat16")
    check_out(out)
    accepted = ("float16",) if dtype == "float16" else ("uint16", "bfloat16")
    result = np.empty(values.shape, accepted[0]) if out is None else out
    if result.dtype.name not in accepted or not result.dtype.isnative:
        raise KernelError(f"out has dtype {result.dtype}, needed is {' or '.join(accepted)}")
    overflow, underflow = _native.cast_half(
        values, dtype == "bfloat16", saturate, result.view(np.uint16), check_threads(threads)
    )
    return CastResult(result, overflow, underflow)
