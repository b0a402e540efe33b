"""What every kernel computes, said in plain NumPy; the oracle of the tests.

Nothing here is fast. The rules in words, with their sources, are on the definition page of the
documentation (reference, kernels).
"""

from lepton_kernels.reference.metrics import error_histogram, error_metrics
from lepton_kernels.reference.observers import (
    divergence,
    entropy_threshold,
    quantile_range,
    rounding_error,
    value_grid,
    value_histogram,
)
from lepton_kernels.reference.quantization import (
    absmax,
    along,
    cast_bfloat16,
    cast_float16,
    dequantize,
    minmax,
    pack_int4,
    quantize,
    quantize_blocks,
    scale_symmetric,
)

__all__ = [
    "absmax",
    "along",
    "cast_bfloat16",
    "cast_float16",
    "dequantize",
    "divergence",
    "entropy_threshold",
    "error_histogram",
    "error_metrics",
    "minmax",
    "pack_int4",
    "quantile_range",
    "quantize",
    "quantize_blocks",
    "rounding_error",
    "scale_symmetric",
    "value_grid",
    "value_histogram",
]
