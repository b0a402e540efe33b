"""Lowering a compression recipe to ONNX, and reading the integers back from a file.

Shared by every target that runs ONNX. Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._qdq import Lowered, lower
from lepton_onnx._qdq_numbers import bias_integers, weight_integers, weight_scales
from lepton_onnx._qdq_read import Stored, compare, is_quantized, read_back

__all__ = [
    "Lowered",
    "Stored",
    "bias_integers",
    "compare",
    "is_quantized",
    "lower",
    "read_back",
    "weight_integers",
    "weight_scales",
]
