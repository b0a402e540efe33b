"""What every kernel computes, said in plain NumPy; the oracle of the tests.

Nothing here is fast. The rules in words, with their sources, are on the definition page of the
documentation (reference, kernels).
"""

from lepton_kernels.reference.clipping import search_scale
from lepton_kernels.reference.layers import awq_error, cholesky, gptq, gram
from lepton_kernels.reference.metrics import error_histogram, error_metrics, row_agreement
from lepton_kernels.reference.observers import (
    divergence,
    entropy_threshold,
    quantile_range,
    rounding_error,
    value_grid,
    value_histogram,
)
from lepton_kernels.reference.palettes import nearest, pack_bits, palette_error
from lepton_kernels.reference.pruning import (
    block_mask,
    channel_norms,
    matmul_u8s8,
    nm_mask,
    prune_masks,
)
from lepton_kernels.reference.quantization import (
    absmax,
    along,
    block_scale,
    cast_bfloat16,
    cast_float8,
    cast_float16,
    dequantize,
    fake_quantize,
    float8_values,
    minmax,
    pack_int4,
    philox,
    quantize,
    quantize_bias,
    quantize_blocks,
    quantize_blocks_float_zero,
    round_by,
    scale_symmetric,
)
from lepton_kernels.reference.scales import percentile_range, scale_affine, scale_signed_max

__all__ = [
    "absmax",
    "along",
    "awq_error",
    "block_mask",
    "block_scale",
    "cast_bfloat16",
    "cast_float8",
    "cast_float16",
    "channel_norms",
    "cholesky",
    "dequantize",
    "divergence",
    "entropy_threshold",
    "error_histogram",
    "error_metrics",
    "fake_quantize",
    "float8_values",
    "gptq",
    "gram",
    "matmul_u8s8",
    "minmax",
    "nearest",
    "nm_mask",
    "pack_bits",
    "pack_int4",
    "palette_error",
    "percentile_range",
    "philox",
    "prune_masks",
    "quantile_range",
    "quantize",
    "quantize_bias",
    "quantize_blocks",
    "quantize_blocks_float_zero",
    "round_by",
    "rounding_error",
    "row_agreement",
    "scale_affine",
    "scale_signed_max",
    "scale_symmetric",
    "search_scale",
    "value_grid",
    "value_histogram",
]
