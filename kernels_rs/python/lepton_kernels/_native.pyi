from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "__version__",
    "absmax",
    "available_threads",
    "cast_half",
    "dequantize",
    "entropy_threshold",
    "error_sums",
    "histogram_edges",
    "minmax",
    "pack_int4",
    "quantize",
    "quantize_blocks",
    "quantize_symmetric",
    "rounding_error",
    "simd_level",
    "unpack_int4",
    "value_histogram",
]

__version__: str

class _ErrorSums(TypedDict):
    count: int
    compared: int
    nan_reference: int
    nan_actual: int
    inf_reference: int
    inf_actual: int
    nonfinite_mismatched: int
    max_abs: float
    abs_sum: float
    squared_sum: float
    reference_sum: float
    actual_sum: float
    dot_sum: float
    histogram: list[int]

def quantize(
    x: NDArray[np.generic],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int64],
    axis: int | None,
    low: int,
    high: int,
    nan_is_zero: bool,
    out: NDArray[np.generic],
    threads: int | None,
) -> None: ...
def quantize_symmetric(
    x: NDArray[np.generic],
    axis: int | None,
    low: int,
    high: int,
    out: NDArray[np.generic],
    out_scale: NDArray[np.float32],
    threads: int | None,
) -> None: ...
def dequantize(
    q: NDArray[np.generic],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int64],
    axis: int | None,
    out: NDArray[np.float32],
    threads: int | None,
) -> None: ...
def quantize_blocks(
    x: NDArray[np.generic],
    bits: int,
    size: int,
    scheme: str,
    packed: int | None,
    out: NDArray[np.uint8],
    out_scale: NDArray[np.float32],
    out_zero: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def pack_int4(
    codes: NDArray[np.uint8],
    row: int,
    offset: int,
    out: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def unpack_int4(
    packed: NDArray[np.uint8],
    row: int,
    offset: int,
    signed: bool,
    out: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def cast_half(
    x: NDArray[np.generic],
    bfloat: bool,
    saturate: bool,
    out: NDArray[np.uint16],
    threads: int | None,
) -> tuple[int, int]: ...
def minmax(
    x: NDArray[np.generic],
    axis: int | None,
    out_min: NDArray[np.float32],
    out_max: NDArray[np.float32],
    threads: int | None,
) -> None: ...
def absmax(
    x: NDArray[np.generic],
    axis: int | None,
    out: NDArray[np.float32],
    threads: int | None,
) -> None: ...
def error_sums(
    reference: NDArray[np.generic],
    actual: NDArray[np.generic],
    threads: int | None,
) -> _ErrorSums: ...
def histogram_edges() -> list[float]: ...
def available_threads() -> int: ...
def simd_level() -> str: ...
def value_histogram(
    x: NDArray[np.generic],
    bins: int,
    magnitudes: bool,
    out: NDArray[np.uint64],
    threads: int | None,
) -> dict[str, Any]: ...
def rounding_error(
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    weight: NDArray[np.float64],
    candidates: list[tuple[float, float, float]],
) -> list[float]: ...
def entropy_threshold(counts: NDArray[np.uint64], levels: int) -> tuple[int, float]: ...
