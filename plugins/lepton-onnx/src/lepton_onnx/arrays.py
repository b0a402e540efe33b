"""Checking the arrays that go into a session, for every runtime that reads ONNX."""

from __future__ import annotations

from lepton_onnx._arrays import checked_inputs

__all__ = ["checked_inputs"]
