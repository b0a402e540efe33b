"""Which operators have a translation from the pivot to torch; imports nothing heavy."""

from __future__ import annotations

from lepton_torch._bridge.catalogue import covered

__all__ = ["covered"]
