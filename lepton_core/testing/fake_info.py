"""What the fake target declares: static data, as in any plugin's ``info.py``."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Capability,
    Constraints,
    Edge,
    Opens,
    Rewrite,
    SourceFormat,
    Support,
    TargetInfo,
)

INFO = TargetInfo(
    id="fake",
    title="Fake target",
    distribution="lepton-core",
    summary="A complete target of small layered networks in JSON, run by NumPy",
    sources=(
        SourceFormat(
            "fake-graph", "Layered network in JSON", suffixes=(".fake",), example="net.fake"
        ),
    ),
    edges=(Edge("fake-graph", "fake", precisions=("fp32", "fp16")),),
    opens=(Opens("fake"), Opens("fake-graph", reference_rank=50)),
    capabilities={
        "adapt": FULL,
        "convert": FULL,
        "optimize": Capability(Support.FULL, note="int8 weights, one scale per row"),
        "deploy": FULL,
        "adjust": FULL,
        "migrate": FULL,
        "open": FULL,
        "precision.fp16": FULL,
        "shapes.dynamic-batch": FULL,
        "training": Capability(Support.UNSUPPORTED, note="there is nothing to train"),
    },
    rewrites=(
        Rewrite(
            "fold-scale",
            "folds a scale into the linear layer beside it",
            ("fake-graph",),
            removes=("scale",),
            tolerance=1e-6,
        ),
    ),
    artifact="fake",
    precisions=("fp32", "fp16", "int8"),
    devices=("cpu",),
    platforms=("linux", "macos", "windows"),
    constraints=Constraints(max_rank=2, forbidden_ops=("scale",)),
)

__all__ = ["INFO"]
