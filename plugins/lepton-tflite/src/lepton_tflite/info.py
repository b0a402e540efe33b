"""What lepton-tflite declares."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Constraints,
    Edge,
    Opens,
    SourceFormat,
    Support,
    TargetInfo,
)

INFO = TargetInfo(
    id="tflite",
    title="LiteRT (TensorFlow Lite)",
    distribution="lepton-tflite",
    summary="LiteRT on CPU: Android, boards, and this machine.",
    sources=(
        SourceFormat(
            id="tflite",
            title="LiteRT file",
            suffixes=(".tflite",),
            example="model.tflite",
        ),
    ),
    edges=(
        Edge(
            source="pivot",
            result="tflite",
            precisions=("fp32", "fp16"),
            options=("batch", "shapes", "io", "weights", "layout"),
            input_options=("batch", "shapes", "layout"),
        ),
    ),
    opens=(Opens("tflite", reference_rank=0),),
    capabilities={
        "convert": Capability(Support.FULL, note="with the extra convert of lepton-tflite"),
        "open": FULL,
        "precision.fp32": FULL,
        "precision.fp16": Capability(Support.FULL, note="weights stored as fp16; computed in fp32"),
        "precision.bf16": Capability(
            Support.UNSUPPORTED, note="LiteRT's kernels take no bf16 weights"
        ),
        "precision.int8": Capability(
            Support.FULL, note="from a recipe; the distribution lepton-compress makes them"
        ),
        "scheme.int8-static": FULL,
        "scheme.int8-dynamic": Capability(
            Support.FULL, note="products quantize their inputs row by row as they run"
        ),
        "scheme.int8-weight-only": FULL,
        "precision.int16": Capability(
            Support.NOT_IMPLEMENTED, note="LiteRT computes int16 in slow reference kernels"
        ),
        "precision.int8-weight": Capability(
            Support.FULL, note="from a recipe; weights alone, by block, unpacked to float at load"
        ),
        "precision.int4": Capability(
            Support.FULL,
            note="from a recipe; weights alone; int4 kernels where scales are above 0 and float16 "
            "holds them, else unpacked to float",
        ),
        "scales.float16": Capability(Support.FULL, note="what kernels of 4 bits want"),
        "scheme.int4-weight-only": FULL,
        "precision.mixed": Capability(Support.FULL, note="from a recipe; one for each weight"),
        "scheme.mixed": FULL,
        "precision.sparse": Capability(
            Support.NOT_IMPLEMENTED, note="weights are written whole, zeros and all"
        ),
        "precision.palette": Capability(
            Support.UNSUPPORTED, note="LiteRT has no tensors that share tables of values"
        ),
        "recipe": FULL,
        "shapes.dynamic-batch": Capability(
            Support.FULL, note="open where that is proved on the model, else row by row"
        ),
        "shapes.dynamic": Capability(
            Support.UNSUPPORTED, note="give other dimensions a size: --option shapes=tokens=128"
        ),
        "device.android-arm64": Capability(
            Support.FULL,
            note="proved with LiteRT's arm64 kernels on an emulated core; no phone has been seen",
        ),
        "device.edgetpu": Capability(
            Support.UNKNOWN,
            note="files of int8 alone, one row, each operator held against Google's table; neither "
            "edgetpu_compiler nor a chip has been seen",
        ),
        "device.gpu": Capability(
            Support.NOT_IMPLEMENTED, note="sessions ask for one (api=compiled); none has been seen"
        ),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it: lepton-compress"),
        "deploy": Capability(Support.UNSUPPORTED, note="the embedded engine deploys"),
        "adjust": Capability(Support.UNSUPPORTED, note="the embedded engine adjusts"),
        "migrate": Capability(Support.UNSUPPORTED, note="the embedded engine migrates"),
    },
    backends=(
        Backend(
            module="ai_edge_litert",
            distributions=("ai-edge-litert",),
            specifier=">=2.3,<2.4",
            pip="lepton-tflite",
            fallbacks=(
                Backend("tflite_runtime", ("tflite-runtime",), ">=2.14,<2.15", "lepton-tflite"),
            ),
        ),
    ),
    artifact="tflite",
    precisions=("fp32", "fp16"),
    devices=("cpu", "android-arm64", "edgetpu"),
    platforms=("linux", "windows", "macos", "android"),
    constraints=Constraints(opsets=(13, 24)),
    narrow="lepton_onnx.narrow:narrow",
)
