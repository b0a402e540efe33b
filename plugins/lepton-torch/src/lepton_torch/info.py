"""What lepton-torch declares: read without importing torch."""

from __future__ import annotations

from lepton_core.capabilities import (
    FULL,
    Backend,
    Capability,
    Edge,
    Opens,
    SourceFormat,
    Support,
    TargetInfo,
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
        Edge(source="torch.factory", result="torch.export"),
        Edge(source="huggingface", result="torch.export"),
        Edge(source="torch.export", result="pivot"),
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
        "adapt": Capability(Support.NOT_IMPLEMENTED, note="sources are exported as they are"),
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
    isolated=("inspect",),
    artifact="torch.export",
    precisions=("fp32",),
    devices=("cpu", "cuda"),
    platforms=("linux", "macos", "windows"),
)
