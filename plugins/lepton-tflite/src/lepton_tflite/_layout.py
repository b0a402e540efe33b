"""Inputs that a file takes with the channels last, while the source has them second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto, helper

from lepton_onnx.editing import replace_items
from lepton_tflite._ports import TO_NCHW, TO_NHWC

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import NodeProto


def take_nhwc(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a graph that takes some inputs of four axes as NHWC.

    Their order is changed back first thing; the converter takes that out again where what reads
    an input wants the channels last.

    Args:
        model: The graph; it is not changed.
        names: Names of the inputs.
    """
    if not names:
        return model
    made = ModelProto()
    made.CopyFrom(model)
    nodes: list[NodeProto] = []
    for value in made.graph.input:
        if value.name not in names:
            continue
        dims = value.type.tensor_type.shape.dim
        replace_items(dims, [dims[i] for i in TO_NHWC])
        inner = f"{value.name}/nchw"
        nodes.append(helper.make_node("Transpose", [value.name], [inner], name=inner, perm=TO_NCHW))
        for node in made.graph.node:
            for place, name in enumerate(node.input):
                if name == value.name:
                    node.input[place] = inner
    replace_items(made.graph.node, [*nodes, *made.graph.node])
    return made


__all__ = ["take_nhwc"]
