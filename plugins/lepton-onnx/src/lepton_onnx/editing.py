"""Changing graphs in place, for plugins that rewrite a pivot before they convert it.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._cleanup import replace_items

__all__ = ["replace_items"]
