"""In which precision a compiled model really computes, read from the graph that OpenVINO runs.

A layer's ``runtimePrecision`` follows its weights: a convolution of float32 arithmetic with
weights stored as float16 says f16. The kernel's name (``primitiveType``, for instance
``brgconv_avx512_f32``) ends with the precision that it computes in, so that is what counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lepton_openvino._dtypes import precision_of

_MOVES = frozenset(
    {
        "Input", "Output", "Const", "Reorder", "Convert", "Reshape", "Transpose", "ShapeOf",
        "Concatenation", "Split", "StridedSlice", "Gather", "GatherElements", "GatherND",
        "Broadcast", "Tile", "Pad", "Unsqueeze", "Squeeze", "MemoryInput", "MemoryOutput",
        "Permute", "Slice", "Range", "ScatterUpdate", "ScatterElementsUpdate", "ScatterNDUpdate",
        "DepthToSpace", "SpaceToDepth", "Reverse", "Roll", "NonZero", "Select", "OneHot",
    }
)  # fmt: skip
"""Types of layers that move values or compute shapes, and no more."""


def computing_layers(compiled: Any) -> dict[str, int]:  # noqa: ANN401 - a class of the runtime
    """Return the number of computing layers by precision (``fp32``, ``bf16``, ``int8``, …)."""
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        notes = node.get_rt_info()
        if str(_text(notes, "layerType")) in _MOVES:
            continue
        precision = _precision(_text(notes, "primitiveType"), _text(notes, "runtimePrecision"))
        if precision is not None:
            counts[precision] += 1
    return dict(sorted(counts.items()))


def _text(notes: Any, key: str) -> str:  # noqa: ANN401 - a class of the runtime
    return str(notes[key].astype(str)) if key in notes else ""


def _precision(kernel: str, runtime: str) -> str | None:
    last = kernel.rpartition("_")[2]
    return precision_of(last) or (precision_of(runtime) if not _is_number(last) else None)


def _is_number(element_type: str) -> bool:
    return element_type.lower() in ("i16", "i32", "i64", "u16", "u32", "u64", "boolean")


def sentence(layers: dict[str, int], storage: str) -> str:
    """Say in words what precision most layers run in, beside how weights are stored."""
    total = sum(layers.values())
    if not total:
        return "none (no layer computes with floats)"
    main = max(layers, key=lambda key: (layers[key], key))
    text = f"{main} ({layers[main]} of {total} layers"
    rest = [f"{count} in {key}" for key, count in layers.items() if key != main]
    if rest:
        text += f"; {', '.join(rest)}"
    if storage == "fp16" and main != "fp16":
        text += "; fp16 storage is converted"
    return f"{text})"


__all__ = ["computing_layers", "sentence"]
