"""Exact, fast quantization kernels and parity metrics for NumPy arrays.

Every kernel follows a written definition and gives the same result for every number of threads and
every processor; `lepton_kernels.reference` says the same in plain NumPy.
"""

from lepton_kernels._affine import dequantize, fake_quantize, integer_limits, quantize
from lepton_kernels._agreement import Agreement, AgreementAccumulator, row_agreement
from lepton_kernels._bias import QuantizedBias, quantize_bias
from lepton_kernels._bits import pack_bits, unpack_bits
from lepton_kernels._blocks import (
    BlockQuantized,
    dequantize_blocks,
    quantize_blocks,
    scale_mse,
)
from lepton_kernels._cast import CastResult, cast_float
from lepton_kernels._gptq import HessianAccumulator, gptq
from lepton_kernels._histogram_observer import HistogramObserver
from lepton_kernels._int4 import pack_int4, unpack_int4
from lepton_kernels._layers import (
    AwqScales,
    awq_scales,
    bias_correction,
    equalization_scales,
    output_error,
    smoothquant_scales,
)
from lepton_kernels._matmul import IntegerProduct, matmul_u8s8
from lepton_kernels._metrics import (
    ERROR_BIN_EDGES,
    ErrorAccumulator,
    ErrorHistogram,
    ErrorMetrics,
    error_metrics,
)
from lepton_kernels._native import __version__, available_threads, simd_level
from lepton_kernels._palette import Palettized, depalettize, palettize
from lepton_kernels._prune import (
    block_mask,
    channel_norms,
    magnitude_threshold,
    nm_mask,
    prune_mask,
    prune_masks,
    wanda_scores,
)
from lepton_kernels._range import (
    absmax,
    minmax,
    quantize_symmetric,
    scale_from_absmax,
    scale_percentile,
    scale_symmetric,
)
from lepton_kernels._range_observer import RangeObserver
from lepton_kernels._scales import (
    scale_affine,
    scale_affine_percentile,
    scale_from_minmax,
    scale_signed_max,
)
from lepton_kernels._threshold import RangeEstimate
from lepton_kernels.errors import KernelError, KernelTypeError

__all__ = [
    "ERROR_BIN_EDGES",
    "Agreement",
    "AgreementAccumulator",
    "AwqScales",
    "BlockQuantized",
    "CastResult",
    "ErrorAccumulator",
    "ErrorHistogram",
    "ErrorMetrics",
    "HessianAccumulator",
    "HistogramObserver",
    "IntegerProduct",
    "KernelError",
    "KernelTypeError",
    "Palettized",
    "QuantizedBias",
    "RangeEstimate",
    "RangeObserver",
    "__version__",
    "absmax",
    "available_threads",
    "awq_scales",
    "bias_correction",
    "block_mask",
    "cast_float",
    "channel_norms",
    "depalettize",
    "dequantize",
    "dequantize_blocks",
    "equalization_scales",
    "error_metrics",
    "fake_quantize",
    "gptq",
    "integer_limits",
    "magnitude_threshold",
    "matmul_u8s8",
    "minmax",
    "nm_mask",
    "output_error",
    "pack_bits",
    "pack_int4",
    "palettize",
    "prune_mask",
    "prune_masks",
    "quantize",
    "quantize_bias",
    "quantize_blocks",
    "quantize_symmetric",
    "row_agreement",
    "scale_affine",
    "scale_affine_percentile",
    "scale_from_absmax",
    "scale_from_minmax",
    "scale_mse",
    "scale_percentile",
    "scale_signed_max",
    "scale_symmetric",
    "simd_level",
    "smoothquant_scales",
    "unpack_bits",
    "unpack_int4",
    "wanda_scores",
]
