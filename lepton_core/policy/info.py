"""What the policy declares."""

from __future__ import annotations

from lepton_core.capabilities import FULL, ExtensionInfo

INFO = ExtensionInfo(
    id="best-measured",
    title="Best measured",
    distribution="lepton-core",
    summary="Policy of `adjust`: for calls of each size, the way that measured best.",
    capabilities={"adjust": FULL},
    isolated=("adjust",),
    engine="best-measured",
)

__all__ = ["INFO"]
