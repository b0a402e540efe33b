"""What lepton-coreml declares."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    INNER,
    Backend,
    Capability,
    Edge,
    Opens,
    Support,
    TargetInfo,
)

_GRAPH_PROOF = "proved with a reference interpreter of the program; no Apple device has run it"

INFO = TargetInfo(
    id="coreml",
    title="Core ML",
    distribution="lepton-coreml",
    summary="ML Programs for iOS 17 and 18 and macOS 14 and 15, proved without a Mac.",
    edges=(
        Edge(
            source="pivot",
            result="coreml",
            precisions=("fp32", "fp16"),
            options=("max_batch", "max_size", "keep", "compute"),
        ),
    ),
    opens=(Opens("coreml", suffixes=(".mlpackage", ".mlmodel")),),
    capabilities={
        "convert": FULL,
        "open": Capability(Support.FULL, note=_GRAPH_PROOF),
        "precision.fp32": FULL,
        "precision.fp16": Capability(
            Support.FULL, note="stored and computed in fp16; the option keep=... keeps operators"
        ),
        "precision.int8": Capability(
            Support.FULL, note="from a recipe; the distribution lepton-compress makes them"
        ),
        "scheme.int8-static": FULL,
        "scheme.int8-weight-only": FULL,
        "precision.int8-weight": Capability(
            Support.FULL, note="from a recipe; weights alone, by block, iOS 18"
        ),
        "precision.int4": Capability(
            Support.FULL, note="from a recipe; weights alone, by block, iOS 18"
        ),
        "scheme.int4-weight-only": FULL,
        "precision.mixed": Capability(Support.FULL, note="from a recipe; one for each weight"),
        "scheme.mixed": FULL,
        "precision.int16": Capability(
            Support.UNSUPPORTED, note="Core ML quantizes activations to 8 bits"
        ),
        "precision.sparse": Capability(
            Support.FULL,
            note="from a recipe; iOS 17 stores pruned integers whole; no device has timed it",
        ),
        "scheme.sparse": FULL,
        "precision.palette": Capability(
            Support.FULL,
            note="from a recipe; tables for groups of channels need iOS 18; no device has timed it",
        ),
        "scheme.palette": FULL,
        "recipe": FULL,
        INNER: Capability(Support.FULL, note="of the reference interpreter; lepton bisect uses it"),
        "shapes.dynamic-batch": Capability(
            Support.FULL, note="1 to 64 rows; the option max_batch=... sets another bound"
        ),
        "shapes.dynamic": Capability(
            Support.FULL, note="up to 1024; the option max_size=... sets another bound"
        ),
        "device.macos": Capability(
            Support.UNKNOWN,
            note="sessions and a bundle's prove_on_mac.py go through coremltools there; no Mac has "
            "tried either yet",
        ),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it: lepton-compress"),
        "deploy": Capability(
            Support.UNSUPPORTED,
            note="the embedded engine deploys; bundles carry a Swift class and prove_on_mac.py",
        ),
        "adjust": Capability(Support.UNSUPPORTED, note="the embedded engine adjusts"),
        "migrate": Capability(Support.UNSUPPORTED, note="the embedded engine migrates"),
    },
    backends=(
        Backend(
            module="coremltools",
            distributions=("coremltools",),
            specifier="==9.0",
            pip="lepton-coreml",
        ),
        Backend(module="torch", distributions=("torch",), specifier=">=2.13", pip="lepton-coreml"),
    ),
    artifact="coreml",
    precisions=("fp32", "fp16"),
    devices=("ios17", "ios18", "reference"),
    platforms=("ios", "macos"),
)
