"""Pruned weights and palettes: what a recipe's sidecar holds, and how ONNX files store it.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._sparse_numbers import pack_mask, palette_of, palette_values, unpack_mask
from lepton_onnx._sparse_read import read_palettes, read_sparse
from lepton_onnx._sparse_writer import prune, write_small

__all__ = [
    "pack_mask",
    "palette_of",
    "palette_values",
    "prune",
    "read_palettes",
    "read_sparse",
    "unpack_mask",
    "write_small",
]
