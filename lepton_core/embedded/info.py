"""What the embedded engine declares."""

from __future__ import annotations

from lepton_core.capabilities import FULL, ExtensionInfo

INFO = ExtensionInfo(
    id="embedded",
    title="Embedded deployment",
    distribution="lepton-core",
    summary="Versions in a store, run inside the application that opens them; bundles to ship.",
    capabilities={
        "deploy": FULL,
        "adjust": FULL,
        "migrate": FULL,
    },
    engine="embedded",
)

__all__ = ["INFO"]
