"""In which precision a compiled model really computes, read from the graph that OpenVINO runs.

A layer's ``runtimePrecision`` follows its weights: a convolution of float32 arithmetic with
weights stored as float16 says f16. The kernel's name (``primitiveType``, for instance
``brgconv_avx512_f32``) ends with the precision that it computes in, so that is what counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.execution import ExecutedNode, ExecutionMap
from lepton_openvino._dtypes import precision_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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


_NOT_RUN = ("Input", "Output", "Const")


def execution_map(
    compiled: Any,  # noqa: ANN401 - a class of the runtime
    devices: Sequence[str],
    known: Collection[str],
) -> ExecutionMap:
    """Return which layers run where, in which precision.

    Args:
        compiled: The compiled model.
        devices: What it runs on.
        known: Names of the nodes of the file; OpenVINO adds others of its own to what a layer
            stands for.
    """
    device = devices[0] if len(devices) == 1 else ""
    ops = [(node, node.get_rt_info()) for node in compiled.get_runtime_model().get_ordered_ops()]
    ops.sort(key=lambda pair: int(_text(pair[1], "execOrder") or 0))  # stable where it is not told
    nodes = tuple(_executed(node, notes, device, known) for node, notes in ops)
    note = f"OpenVINO does not tell which of {', '.join(devices) or 'its devices'} runs a layer."
    return ExecutionMap(
        "openvino", tuple(node for node in nodes if node), () if device else (note,)
    )


def _executed(
    node: Any,  # noqa: ANN401 - a class of the runtime
    notes: Any,  # noqa: ANN401
    device: str,
    known: Collection[str],
) -> ExecutedNode | None:
    kind = _text(notes, "layerType")
    if kind in _NOT_RUN:
        return None
    precision = None
    if kind not in _MOVES:
        precision = _precision(_text(notes, "primitiveType"), _text(notes, "runtimePrecision"))
    named = _text(notes, "originalLayersNames").split(",")
    return ExecutedNode(
        node.get_friendly_name(),
        kind,
        tuple(dict.fromkeys(name for name in named if name in known)),
        device.partition(".")[0].lower(),
        device,
        precision or "",
    )


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


__all__ = ["execution_map", "sentence"]
