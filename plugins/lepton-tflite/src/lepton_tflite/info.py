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
    edges=(Edge(source="pivot", result="tflite", precisions=("fp32", "fp16")),),
    opens=(Opens("tflite", reference_rank=0),),
    capabilities={
        "convert": Capability(Support.FULL, note="pip install 'lepton-tflite[convert]'"),
        "open": FULL,
        "precision.fp32": FULL,
        "precision.fp16": Capability(Support.FULL, note="weights stored as fp16; computed in fp32"),
        "precision.bf16": Capability(
            Support.UNSUPPORTED, note="LiteRT's kernels take no bf16 weights"
        ),
        "precision.int8": Capability(
            Support.FULL, note="from a recipe: pip install lepton-compress"
        ),
        "scheme.int8-static": FULL,
        "precision.int16": Capability(
            Support.NOT_IMPLEMENTED, note="LiteRT computes int16 in slow reference kernels"
        ),
        "precision.int8-weight": Capability(
            Support.NOT_IMPLEMENTED, note="scales by block need another form of the file"
        ),
        "precision.int4": Capability(
            Support.NOT_IMPLEMENTED,
            note="LiteRT's scales by block are float16, a recipe's float32",
        ),
        "precision.mixed": Capability(Support.NOT_IMPLEMENTED, note="needs weights in few bits"),
        "recipe": FULL,
        "shapes.dynamic-batch": Capability(
            Support.FULL, note="open where that is proved on the model, else row by row"
        ),
        "shapes.dynamic": Capability(
            Support.UNSUPPORTED, note="give other dimensions a size: --option shapes=tokens=128"
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
