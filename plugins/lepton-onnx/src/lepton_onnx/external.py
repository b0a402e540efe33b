"""External data: weights in files beside the model, found safely.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._external import Slice, external_tensors, load_external, locate, verify_external
from lepton_onnx._facts import digest, external_files
from lepton_onnx._strip import EXTERNAL_KEY
from lepton_onnx._write import EXTERNAL_ABOVE

__all__ = [
    "EXTERNAL_ABOVE",
    "EXTERNAL_KEY",
    "Slice",
    "digest",
    "external_files",
    "external_tensors",
    "load_external",
    "locate",
    "verify_external",
]
