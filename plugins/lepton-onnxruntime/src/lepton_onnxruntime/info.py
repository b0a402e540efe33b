"""What lepton-onnxruntime declares."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Constraints,
    Edge,
    Opens,
    Support,
    TargetInfo,
)

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
"""Rivals under the import name ``onnxruntime``; only one of them may be installed."""

INFO = TargetInfo(
    id="onnxruntime",
    title="ONNX Runtime",
    distribution="lepton-onnxruntime",
    summary="ONNX Runtime on CPU, and on CUDA with the gpu extra.",
    edges=(
        Edge(
            source="pivot",
            result="onnxruntime",
            precisions=("fp32", "fp16"),
            isolated=False,
            options=("keep",),
        ),
    ),
    opens=(
        Opens("onnxruntime"),
        Opens("pivot", reference_rank=10),
        Opens("onnx", reference_rank=10),
    ),
    capabilities={
        "convert": FULL,
        "open": FULL,
        "precision.fp32": FULL,
        "loads.quick": Capability(Support.FULL, note="a small model is lowered and opened at once"),
        "precision.fp16": Capability(
            Support.FULL, note="stored as fp16; the CPU computes most operators in fp32"
        ),
        "precision.int8": Capability(
            Support.FULL, note="from a recipe; the distribution lepton-compress makes them"
        ),
        "scheme.int8-static": FULL,
        "precision.int16": Capability(
            Support.FULL, note="from a recipe; weights int8, activations int16, computed in float"
        ),
        "scheme.int16-static": FULL,
        "scheme.int8-dynamic": FULL,
        "scheme.int8-weight-only": FULL,
        "precision.int8-weight": Capability(
            Support.FULL, note="from a recipe; weights alone, by block: MatMulNBits"
        ),
        "precision.int4": Capability(
            Support.FULL, note="from a recipe; weights alone, by block: MatMulNBits"
        ),
        "scheme.int4-weight-only": FULL,
        "precision.mixed": Capability(Support.FULL, note="from a recipe; one for each weight"),
        "scheme.mixed": FULL,
        "precision.sparse": Capability(
            Support.FULL, note="from a recipe; a smaller file, as fast and as large in memory"
        ),
        "scheme.sparse": FULL,
        "precision.palette": Capability(
            Support.FULL, note="from a recipe; a smaller file, as fast and as large in memory"
        ),
        "scheme.palette": FULL,
        "shapes.dynamic-batch": FULL,
        "shapes.dynamic": FULL,
        "device.cuda": Capability(Support.FULL, note="with the extra gpu of lepton-onnxruntime"),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it: lepton-compress"),
        "deploy": Capability(Support.UNSUPPORTED, note="the embedded engine deploys"),
        "adjust": Capability(Support.UNSUPPORTED, note="the embedded engine adjusts"),
        "migrate": Capability(Support.UNSUPPORTED, note="the embedded engine migrates"),
    },
    backends=(
        Backend(
            module="onnxruntime",
            distributions=DISTRIBUTIONS,
            specifier=">=1.20",
            pip="lepton-onnxruntime[cpu]",
        ),
    ),
    artifact="onnxruntime",
    precisions=("fp32", "fp16"),
    devices=("cpu", "cuda"),
    platforms=("linux", "windows", "macos"),
    constraints=Constraints(opsets=(7, 26), domains=("", "ai.onnx", "ai.onnx.ml", "com.microsoft")),
)
