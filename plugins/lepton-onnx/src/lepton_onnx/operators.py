"""Which operators a model uses, with counts and places.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._cleanup import captured
from lepton_onnx._operators import inventory, is_defined, place, qualified_name

__all__ = ["captured", "inventory", "is_defined", "place", "qualified_name"]
