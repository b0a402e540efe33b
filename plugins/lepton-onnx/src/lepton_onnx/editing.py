"""Changing graphs in place, for plugins that rewrite a pivot before they convert it.

Importing this module imports ``onnx``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_onnx._cleanup import replace_items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import GraphProto, NodeProto, TensorProto


def put_nodes(
    graph: GraphProto, nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto]
) -> None:
    """Give a graph other nodes, in place, without Casts and constants that nothing reads.

    Args:
        graph: The graph.
        nodes: Its nodes from now on, in order.
        constants: What they may read, by name; the graph's initializers are taken from these.
    """
    results = {value.name for value in graph.output}
    wanted = results.union(*(node.input for node in nodes))
    kept = [node for node in nodes if node.op_type != "Cast" or wanted & set(node.output)]
    used = results.union(*(node.input for node in kept))
    replace_items(graph.node, kept)
    replace_items(graph.initializer, [t for name, t in constants.items() if name in used])


__all__ = ["put_nodes", "replace_items"]
