"""Shape inference to a fixed point, without made-up symbols."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from lepton_core.errors import SourceError
from lepton_onnx._cleanup import replace_items
from lepton_onnx._protobuf import walk_graphs

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto

_MADE_UP = re.compile(r"unk__\d+")
_MOST_PASSES = 4


def infer(model: ModelProto) -> ModelProto:
    """Return *model* with inferred types and shapes of every value it can tell.

    Symbols that inference makes up by counting (``unk__3``) become unknown dimensions; types are
    listed in the order in which values are produced.

    Raises:
        SourceError: LPT-SRC-212, the shapes contradict each other.
    """
    before = b""
    for _ in range(_MOST_PASSES):
        try:
            model = _one_pass(model)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise SourceError(
                "LPT-SRC-212",
                "Types or shapes in the model contradict each other",
                cause=" ".join(str(error).split())[:800],
                remedy="Export the model again with a current exporter; the cause names the node.",
            ) from error
        _tidy(model)
        now = model.graph.SerializeToString(deterministic=True)
        if now == before:
            break
        before = now
    return model


def _one_pass(model: ModelProto) -> ModelProto:
    """Infer with the values of shapes if that works; some functions of operators break on it."""
    infer_shapes = onnx.shape_inference.infer_shapes
    try:
        return infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return infer_shapes(model, check_type=True, strict_mode=True, data_prop=False)


def _tidy(model: ModelProto) -> None:
    for graph in walk_graphs(model.graph):
        for value in (*graph.value_info, *graph.output):
            _forget_made_up(value.type)
        infos = {v.name: v for v in graph.value_info}
        listed = {v.name for v in (*graph.input, *graph.output)}
        listed |= {t.name for t in graph.initializer}
        order = [name for node in graph.node for name in node.output if name not in listed]
        kept = [infos[name] for name in order if name in infos]
        replace_items(graph.value_info, kept)


def _forget_made_up(kind: TypeProto) -> None:
    if not kind.HasField("tensor_type"):
        return
    for dim in kind.tensor_type.shape.dim:
        if _MADE_UP.fullmatch(dim.dim_param):
            dim.ClearField("value")
