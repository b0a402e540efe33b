"""What lepton-acme declares: static data, imported without the runtime."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Edge,
    Opens,
    Support,
    TargetInfo,
)

INFO = TargetInfo(
    id="acme",
    title="ACME",
    distribution="lepton-acme",
    summary="An example: ONNX's reference evaluator as a runtime of its own.",
    edges=(Edge(source="pivot", result="acme", precisions=("fp32",)),),
    opens=(Opens("acme"),),
    capabilities={
        "convert": FULL,
        "open": FULL,
        "precision.fp32": FULL,
        "precision.fp16": Capability(Support.NOT_IMPLEMENTED, note="the example stops at fp32"),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it"),
    },
    backends=(
        Backend(module="onnx", distributions=("onnx",), specifier=">=1.18", pip="lepton-acme"),
    ),
    artifact="acme",
    precisions=("fp32",),
    devices=("cpu",),
    platforms=("linux", "macos", "windows"),
)
