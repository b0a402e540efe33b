from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "__version__",
    "absmax",
    "add_gram",
    "available_threads",
    "block_norms",
    "cast_float",
    "cholesky",
    "dequantize",
    "entropy_threshold",
    "error_sums",
    "fake_quantize",
    "gptq",
    "histogram_edges",
    "magnitude_cut",
    "magnitude_masks",
    "matmul_u8s8",
    "minmax",
    "nm_mask",
    "pack_bits",
    "pack_int4",
    "palette",
    "palette_indices",
    "power_sums",
    "product_norms",
    "quantize",
    "quantize_blocks",
    "quantize_symmetric",
    "rounding_error",
    "row_agreement",
    "row_limits",
    "search_scales",
    "side_cut",
    "simd_level",
    "unpack_bits",
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
    reference_max: float
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
    rounding: str,
    seed: int,
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
    search: bool,
    rounding: str,
    seed: int,
    packed: int | None,
    out: NDArray[np.uint8],
    out_scale: NDArray[np.float32],
    out_zero: NDArray[np.uint8] | NDArray[np.float32],
    threads: int | None,
) -> None: ...
def search_scales(
    x: NDArray[np.generic],
    bits: int,
    size: int,
    scheme: str,
    out_scale: NDArray[np.float32],
    out_zero: NDArray[np.uint16],
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
def cast_float(
    x: NDArray[np.generic],
    dtype: str,
    saturate: bool,
    out: NDArray[np.generic],
    threads: int | None,
) -> tuple[int, int]: ...
def fake_quantize(
    x: NDArray[np.generic],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int64],
    axis: int | None,
    low: int,
    high: int,
    nan_is_zero: bool,
    rounding: str,
    seed: int,
    out: NDArray[np.float32],
    threads: int | None,
) -> None: ...
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
def magnitude_cut(
    arrays: list[NDArray[np.generic]], keep: int, threads: int | None
) -> tuple[float, int]: ...
def side_cut(x: NDArray[np.generic], keep: int, negative: bool, threads: int | None) -> float: ...
def row_limits(
    x: NDArray[np.generic],
    size: int,
    rank: int,
    magnitudes: bool,
    out: NDArray[np.float32],
    threads: int | None,
) -> None: ...
def magnitude_masks(
    arrays: list[NDArray[np.generic]],
    keep: int,
    masks: list[NDArray[np.uint8]],
    threads: int | None,
) -> None: ...
def nm_mask(
    x: NDArray[np.generic], n: int, m: int, out: NDArray[np.uint8], threads: int | None
) -> None: ...
def power_sums(
    x: NDArray[np.generic], axis: int | None, squares: bool, threads: int | None
) -> list[float]: ...
def matmul_u8s8(
    a: NDArray[np.uint8],
    b: NDArray[np.int8],
    k: int,
    saturate: bool,
    out: NDArray[np.int32],
    threads: int | None,
) -> int: ...
def palette(x: NDArray[np.generic], entries: int, threads: int | None) -> list[float]: ...
def palette_indices(
    x: NDArray[np.generic],
    palette: NDArray[np.float32],
    out: NDArray[np.uint8],
    threads: int | None,
) -> float: ...
def pack_bits(
    codes: NDArray[np.uint8],
    row: int,
    bits: int,
    offset: int,
    high_first: bool,
    out: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def unpack_bits(
    packed: NDArray[np.uint8],
    row: int,
    bits: int,
    offset: int,
    signed: bool,
    high_first: bool,
    out: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def add_gram(x: NDArray[np.generic], sum: NDArray[np.float64], threads: int | None) -> None: ...
def product_norms(
    weight: NDArray[np.generic], x: NDArray[np.generic], threads: int | None
) -> list[float]: ...
def cholesky(a: NDArray[np.float64], threads: int | None) -> None: ...
def gptq(
    weight: NDArray[np.generic],
    factor: NDArray[np.float64],
    order: NDArray[np.int64],
    fixed_scales: bool,
    bits: int,
    size: int,
    scheme: str,
    search: bool,
    out: NDArray[np.uint8],
    out_scale: NDArray[np.float32],
    out_zero: NDArray[np.uint8],
    threads: int | None,
) -> None: ...
def row_agreement(
    reference: NDArray[np.generic], actual: NDArray[np.generic], k: int, threads: int | None
) -> tuple[list[float], list[bool], list[int]]: ...
def block_norms(
    x: NDArray[np.generic],
    height: int,
    width: int,
    squares: bool,
    out: NDArray[np.float32],
    threads: int | None,
) -> None: ...
