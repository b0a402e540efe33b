"""What lepton-onnx declares."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Edge,
    ExtensionInfo,
    Opens,
    SourceFormat,
    Support,
)

INFO = ExtensionInfo(
    id="onnx",
    title="ONNX",
    distribution="lepton-onnx",
    summary="ONNX files as a source, and the pivot that every conversion passes through.",
    sources=(
        SourceFormat(id="onnx", title="ONNX file", suffixes=(".onnx",), example="model.onnx"),
    ),
    edges=(Edge(source="onnx", result="pivot", precisions=("fp32",), isolated=False),),
    opens=(Opens("onnx", reference_rank=50), Opens("pivot", reference_rank=50)),
    capabilities={
        "convert": FULL,
        "open": Capability(Support.FULL, note="ONNX's reference evaluator: exact but slow"),
        "adapt": Capability(Support.NOT_IMPLEMENTED, note="models from torch can be adapted"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it: lepton-compress"),
        "deploy": Capability(Support.UNSUPPORTED, note="no target of its own"),
        "adjust": Capability(Support.UNSUPPORTED, note="no target of its own"),
        "migrate": Capability(Support.UNSUPPORTED, note="no target of its own"),
        "shapes.dynamic-batch": FULL,
    },
    backends=(
        Backend(module="onnx", distributions=("onnx",), specifier=">=1.18", pip="lepton-onnx"),
    ),
)
