"""What lepton-openvino declares."""

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

_UNTRIED = "runs through OpenVINO's own plugin; not tried on such a device yet"

INFO = TargetInfo(
    id="openvino",
    title="OpenVINO",
    distribution="lepton-openvino",
    summary="OpenVINO on CPU, and on Intel's GPUs and NPUs where their drivers are installed.",
    edges=(Edge(source="pivot", result="openvino", precisions=("fp32", "fp16")),),
    opens=(Opens("openvino"), Opens("pivot")),
    capabilities={
        "convert": FULL,
        "open": FULL,
        "precision.fp32": FULL,
        "loads.quick": Capability(Support.FULL, note="a small model is lowered and opened at once"),
        "precision.fp16": Capability(
            Support.FULL, note="weights stored as fp16; computed in fp32 unless asked otherwise"
        ),
        "precision.bf16": Capability(
            Support.NOT_IMPLEMENTED,
            note="no bf16 files; a session computes in bf16 with the option inference_precision",
        ),
        "precision.int8": Capability(
            Support.FULL, note="from a recipe; the distribution lepton-compress makes them"
        ),
        "scheme.int8-static": FULL,
        "precision.int16": Capability(
            Support.FULL, note="from a recipe; weights int8, activations int16, computed in float"
        ),
        "scheme.int16-static": FULL,
        "scheme.int8-weight-only": FULL,
        "precision.int8-weight": Capability(
            Support.FULL, note="from a recipe; weights alone, by block, unpacked in the product"
        ),
        "precision.int4": Capability(
            Support.FULL, note="from a recipe; weights alone, by block, unpacked in the product"
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
        "recipe": FULL,
        "shapes.dynamic-batch": FULL,
        "shapes.dynamic": FULL,
        "device.gpu": Capability(Support.UNKNOWN, note=_UNTRIED),
        "device.npu": Capability(Support.UNKNOWN, note=_UNTRIED),
        "safety.no-telemetry": Capability(
            Support.FULL, note="OpenVINO is imported with its telemetry off"
        ),
        "adapt": Capability(Support.UNSUPPORTED, note="the source format's plugin adapts"),
        "optimize": Capability(Support.UNSUPPORTED, note="an engine does it: lepton-compress"),
        "deploy": Capability(Support.UNSUPPORTED, note="the embedded engine deploys"),
        "adjust": Capability(Support.UNSUPPORTED, note="the embedded engine adjusts"),
        "migrate": Capability(Support.UNSUPPORTED, note="the embedded engine migrates"),
    },
    backends=(
        Backend(
            module="openvino",
            distributions=("openvino",),
            specifier=">=2026.4,<2027",
            pip="lepton-openvino",
        ),
    ),
    artifact="openvino",
    precisions=("fp32", "fp16"),
    devices=("cpu", "gpu", "npu", "auto"),
    platforms=("linux", "windows", "macos"),
    # OpenVINO 2026.4 carries the operator definitions of ONNX up to opset 27; it takes newer ones
    # without a word and reads them as if they were of opset 27.
    constraints=Constraints(
        opsets=(7, 27),
        domains=("", "ai.onnx", "com.microsoft"),
        forbidden_ops=(
            "Bernoulli",
            "BitCast",
            "CausalConvWithState",
            "CumProd",
            "DeformConv",
            "Det",
            "ImageDecoder",
            "LinearAttention",
            "MaxUnpool",
            "MelWeightMatrix",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "RegexFullMatch",
            "SequenceMap",
            "StringConcat",
            "StringNormalizer",
            "StringSplit",
            "SwiGLU",
            "TensorScatter",
            "TfIdfVectorizer",
        ),
    ),
)
