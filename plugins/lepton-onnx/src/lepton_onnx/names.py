"""Names of values: which are kept, and how others are made.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._naming import LONGEST, is_counted, is_stable, is_valid, sanitized

__all__ = ["LONGEST", "is_counted", "is_stable", "is_valid", "sanitized"]
