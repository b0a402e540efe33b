"""The smallest part of a pivot that a converter still fails on, for targets that convert it."""

from __future__ import annotations

from lepton_onnx._narrow import narrow, part_of

__all__ = ["narrow", "part_of"]
