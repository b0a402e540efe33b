"""A DequantizeLinear for each reader of a quantized value.

litert-torch turns values of four axes to channels last, and inserts a Transpose where a reader
wants them first. Behind a dequantization it does so for the first such reader, forgets the layout
on the way, and gives the others channels last.
"""

from __future__ import annotations

from collections import Counter

from onnx import ModelProto, NodeProto

from lepton_onnx.editing import replace_items


def one_reader_each(proto: ModelProto) -> ModelProto:
    """Return a graph whose dequantized activations are each read once.

    Args:
        proto: The graph; it is not changed.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    held = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.output}
    reads = Counter(name for node in graph.node for name in node.input)
    made: dict[str, list[NodeProto]] = {
        node.output[0]: []
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and not held & {node.input[0], node.output[0]}
        and reads[node.output[0]] > 1
    }
    sources = {node.output[0]: node for node in graph.node if node.output[0] in made}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in made:
                own = NodeProto()
                own.CopyFrom(sources[name])
                own.name = own.output[0] = f"{name}/for_{len(made[name])}"
                made[name].append(own)
                node.input[place] = own.output[0]
    nodes = [made.get(node.output[0], [node]) for node in graph.node]
    replace_items(graph.node, [node for own in nodes for node in own])
    return result


__all__ = ["one_reader_each"]
