"""Lowering a compression recipe to ONNX, and reading the integers back from a file.

Shared by every target that runs ONNX. Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._block_numbers import Blocks, block_integers, by_output
from lepton_onnx._block_read import compare_blocks, read_blocks, unpack
from lepton_onnx._means import means_as_products
from lepton_onnx._qdq import Lowered, lower
from lepton_onnx._qdq_numbers import bias_integers, weight_integers, weight_scales
from lepton_onnx._qdq_read import Stored, compare, is_quantized, read_back
from lepton_onnx._rescale import Rescaling, correct, factors, rescale
from lepton_onnx._restored import Restored, reads_table, restored_weight

__all__ = [
    "Blocks",
    "Lowered",
    "Rescaling",
    "Restored",
    "Stored",
    "bias_integers",
    "block_integers",
    "by_output",
    "compare",
    "compare_blocks",
    "correct",
    "factors",
    "is_quantized",
    "lower",
    "means_as_products",
    "read_back",
    "read_blocks",
    "reads_table",
    "rescale",
    "restored_weight",
    "unpack",
    "weight_integers",
    "weight_scales",
]
