"""float16, bfloat16 and float64 in a graph: LiteRT computes them all in float32.

Its kernels on a CPU take no other floats, so the graph is written in float32 before it is
converted. Sessions take and give the types of the model, and cast at the border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHERS = frozenset({TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
_NAMED_BY = frozenset(
    {"to", "dtype", "output_datatype", "output_dtype", "precision", "softmax_precision",
     "stash_type"}
)  # fmt: skip
"""Attributes that name a type."""


def to_single(proto: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """Return a graph that computes in float32, and a warning where it did not.

    Args:
        proto: The graph with its weights in memory; it is not changed.

    Raises:
        ConversionError: LPT-CONV-417, a constant is beyond float32.
    """
    found = sorted({helper.tensor_dtype_to_np_dtype(kind).name for kind in _kinds(proto)})
    if not found:
        return proto, ()
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen(tensor, tensor.name)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _NAMED_BY and attribute.i in _OTHERS:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen(attribute.t, node.name or node.output[0])
    return result, (f"The model computes in {' and '.join(found)}, the file in float32.",)


def _kinds(proto: ModelProto) -> Iterator[int]:
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from _OTHERS & {value.type.tensor_type.elem_type}
    for tensor in graph.initializer:
        yield from _OTHERS & {tensor.data_type}
    for node in graph.node:
        for attribute in node.attribute:
            yield from _OTHERS & {attribute.t.data_type}
            if attribute.name in _NAMED_BY:
                yield from _OTHERS & {attribute.i}


def _widen(tensor: Any, name: str) -> None:  # noqa: ANN401 - protobuf
    """Make a constant float32, in place."""
    if tensor.data_type not in _OTHERS:
        return
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    wrong = np.isinf(single) & ~np.isinf(values)
    if np.any(wrong):
        raise ConversionError(
            "LPT-CONV-417",
            f"The constant {name!r} is beyond float32, which LiteRT computes in",
            cause=f"It holds {values[wrong].flat[0]:g}.",
            remedy="Use a number within 3.4e38 in the model (such as -1e30 in a mask).",
            details={"constant": name},
        )
    tensor.CopyFrom(numpy_helper.from_array(single, tensor.name))


__all__ = ["to_single"]
