"""Exact, fast quantization kernels and parity metrics for NumPy arrays.

Every kernel follows a written definition and gives the same result for every number of threads and
every processor; `lepton_kernels.reference` says the same in plain NumPy.
"""

from lepton_kernels._affine import dequantize, integer_limits, quantize
from lepton_kernels._blocks import (
    BlockQuantized,
    dequantize_blocks,
    pack_int4,
    quantize_blocks,
    unpack_int4,
)
from lepton_kernels._cast import CastResult, cast_float
from lepton_kernels._histogram_observer import HistogramObserver
from lepton_kernels._metrics import (
    ERROR_BIN_EDGES,
    ErrorAccumulator,
    ErrorHistogram,
    ErrorMetrics,
    error_metrics,
)
from lepton_kernels._native import __version__, available_threads, simd_level
from lepton_kernels._range import (
    absmax,
    minmax,
    quantize_symmetric,
    scale_from_absmax,
    scale_symmetric,
)
from lepton_kernels._range_observer import RangeObserver
from lepton_kernels._threshold import RangeEstimate
from lepton_kernels.errors import KernelError, KernelTypeError

__all__ = [
    "ERROR_BIN_EDGES",
    "BlockQuantized",
    "CastResult",
    "ErrorAccumulator",
    "ErrorHistogram",
    "ErrorMetrics",
    "HistogramObserver",
    "KernelError",
    "KernelTypeError",
    "RangeEstimate",
    "RangeObserver",
    "__version__",
    "absmax",
    "available_threads",
    "cast_float",
    "dequantize",
    "dequantize_blocks",
    "error_metrics",
    "integer_limits",
    "minmax",
    "pack_int4",
    "quantize",
    "quantize_blocks",
    "quantize_symmetric",
    "scale_from_absmax",
    "scale_symmetric",
    "simd_level",
    "unpack_int4",
]
