"""Float32 to float16, decided from ONNX's operator definitions.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._half import Float16Result, convert
from lepton_onnx._half_rules import LARGEST, SMALLEST, why_not_half

__all__ = ["LARGEST", "SMALLEST", "Float16Result", "convert", "why_not_half"]
