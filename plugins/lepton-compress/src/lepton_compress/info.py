"""What lepton-compress declares."""

from __future__ import annotations

from lepton_core.capabilities import FULL, Backend, Capability, ExtensionInfo, Support

INFO = ExtensionInfo(
    id="compress",
    title="The compression engine",
    distribution="lepton-compress",
    summary="int8, int4, pruning, palettes and mixtures by one recipe that targets lower.",
    engine="compress",
    capabilities={
        "optimize": FULL,
        "precision.int8": FULL,
        "precision.int16": FULL,
        "precision.int8-weight": FULL,
        "precision.int4": FULL,
        "precision.auto": FULL,
        "precision.mixed": FULL,
        "precision.sparse": FULL,
        "precision.palette": FULL,
        "scheme.int8-static": FULL,
        "scheme.int16-static": FULL,
        "scheme.int8-dynamic": FULL,
        "scheme.int8-weight-only": FULL,
        "scheme.int4-weight-only": FULL,
        "scheme.mixed": FULL,
        "scheme.sparse": FULL,
        "scheme.palette": FULL,
        "convert": Capability(Support.UNSUPPORTED, note="targets lower the recipe"),
        "open": Capability(Support.UNSUPPORTED, note="targets run what was lowered"),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "deploy": Capability(Support.UNSUPPORTED, note="the embedded engine deploys"),
        "adjust": Capability(Support.UNSUPPORTED, note="the embedded engine adjusts"),
        "migrate": Capability(Support.UNSUPPORTED, note="the embedded engine migrates"),
    },
    backends=(
        Backend(module="onnx", distributions=("onnx",), specifier=">=1.18", pip="lepton-compress"),
    ),
    isolated=("optimize",),
)
