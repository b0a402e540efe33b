"""What lepton-torch declares: read without importing torch."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Edge,
    Opens,
    Rewrite,
    SourceFormat,
    Support,
    TargetInfo,
)

_FORMATS = ("torch.factory", "huggingface", "torch.export")
_HOME = "lepton_torch._rewrites"
_CLOSE = 1e-5
_NORM = "(x - mean) / sqrt(var + eps)"


def _form(name: str, form: str, *operators: str, module: str = "activations") -> Rewrite:
    """Return a rewrite that writes an operator in primitive ones."""
    return Rewrite(
        f"expand-{name}",
        f"writes {name} as {form}",
        _FORMATS,
        f"{_HOME}.{module}:expand_{name.replace('-', '_')}",
        removes=operators,
        tolerance=_CLOSE,
    )


REWRITES = (
    Rewrite(
        "fix-shapes",
        "gives symbolic dimensions a size, or tighter bounds",
        _FORMATS,
        f"{_HOME}.shapes:fix_shapes",
        fixes_shapes=True,
        tolerance=1e-6,
        needs="sizes, by --shape or from a target that takes static shapes only",
    ),
    Rewrite(
        "drop-training-only",
        "removes dropout, detach, checkpoint and no-grad blocks, and operators that do nothing",
        _FORMATS,
        f"{_HOME}.training:drop_training_only",
        removes=("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.detach"),
        standard=True,
    ),
    Rewrite(
        "fold-batch-norm",
        "folds batch normalisation into the convolution or linear layer before or behind it",
        _FORMATS,
        f"{_HOME}.folding:fold_batch_norm",
        removes=("aten.batch_norm", "aten._native_batch_norm_legit_no_training"),
        standard=True,
        tolerance=_CLOSE,
        needs="constant statistics, and a layer beside it whose float32 weights and output "
        "nothing else uses; a convolution behind it must not pad",
    ),
    Rewrite(
        "fix-adaptive-pool",
        "makes adaptive pooling one of a fixed kernel and stride, a mean or a maximum",
        _FORMATS,
        f"{_HOME}.pooling:fix_adaptive_pool",
        removes=(
            *(f"aten.adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)),
            *(f"aten._adaptive_avg_pool{n}d" for n in (2, 3)),
        ),
        tolerance=1e-6,
        needs="a fixed input size with windows of one length and distance, or an output of one "
        "value per channel; for max pooling that nobody uses the indices",
    ),
    _form("hardswish", "x clamp(x + 3, 0, 6) / 6", "aten.hardswish"),
    _form("hardsigmoid", "clamp(x + 3, 0, 6) / 6", "aten.hardsigmoid"),
    _form("silu", "x sigmoid(x)", "aten.silu"),
    _form("relu6", "clamp(x, 0, 6)", "aten.relu6", "aten.hardtanh"),
    _form("gelu", "x / 2 (1 + erf(x / sqrt 2)), or its tanh form", "aten.gelu"),
    _form("mish", "x tanh(softplus(x))", "aten.mish"),
    _form("layer-norm", _NORM, "aten.layer_norm", "aten.native_layer_norm", module="norms"),
    _form("group-norm", _NORM, "aten.group_norm", module="norms"),
    _form("instance-norm", _NORM, "aten.instance_norm", module="norms"),
    _form(
        "rms-norm",
        "x / sqrt(mean(x²) + eps)",
        "aten.rms_norm",
        "aten._fused_rms_norm",
        module="norms",
    ),
    _form(
        "batch-norm",
        "a product and a sum, where it cannot be folded",
        "aten.batch_norm",
        "aten._native_batch_norm_legit_no_training",
        "aten._native_batch_norm_legit",
        module="norms",
    ),
)

INFO = TargetInfo(
    id="torch",
    title="PyTorch",
    distribution="lepton-torch",
    summary="Source of torch and Hugging Face models, way to the pivot, and yardstick.",
    sources=(
        SourceFormat(
            id="torch.factory",
            title="PyTorch factory",
            entry_suffixes=(".py",),
            example="digits.py:net",
        ),
        SourceFormat(
            id="huggingface",
            title="Hugging Face model",
            directory_files=("config.json",),
            names=True,
            example="google/bert_uncased_L-2_H-128_A-2",
        ),
        SourceFormat(
            id="torch.export",
            title="PyTorch exported program",
            suffixes=(".pt2",),
            example="model.pt2",
        ),
    ),
    edges=(
        Edge(source="torch.factory", result="torch.export", options=("require_dynamic_batch",)),
        Edge(source="huggingface", result="torch.export", options=("require_dynamic_batch",)),
        Edge(source="torch.export", result="pivot"),
        Edge(source="pivot", result="torch.export", cost=4),  # back: never on the way elsewhere
    ),
    opens=(Opens(format="torch.export", reference_rank=0),),
    capabilities={
        "convert": FULL,
        "open": FULL,
        "precision.fp32": FULL,
        "precision.fp16": Capability(
            Support.NOT_IMPLEMENTED, note="exported programs keep the precision of their source"
        ),
        "shapes.dynamic-batch": FULL,
        "shapes.dynamic-sequence": Capability(
            Support.FULL, note="text models read through transformers"
        ),
        "adapt": Capability(Support.FULL, note="`lepton rewrites` lists what it can do"),
        "optimize": Capability(
            Support.UNSUPPORTED, note="models are compressed on the pivot, by the engine `compress`"
        ),
        "safety.no-pickle": Capability(
            Support.FULL, note="archives that would unpickle objects or run code are refused"
        ),
    },
    backends=(
        Backend(module="torch", distributions=("torch",), specifier=">=2.13", pip="lepton-torch"),
        Backend(module="onnxscript", distributions=("onnxscript",), pip="lepton-torch"),
        Backend(module="safetensors", distributions=("safetensors",), pip="lepton-torch"),
    ),
    isolated=("inspect", "adapt"),
    rewrites=REWRITES,
    artifact="torch.export",
    precisions=("fp32",),
    devices=("cpu", "cuda"),
    platforms=("linux", "macos", "windows"),
)
