"""The pivot: load, check, freeze, save.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._freeze import PIVOT_OPSET, FreezeFacts, freeze, graph_facts
from lepton_onnx._load import check, load, read
from lepton_onnx._save import save
from lepton_onnx._signature import signature

__all__ = [
    "PIVOT_OPSET",
    "FreezeFacts",
    "check",
    "freeze",
    "graph_facts",
    "load",
    "read",
    "save",
    "signature",
]
