"""Where a graph computes with constants of unsigned integers, which some converters cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_onnx._operators import place
from lepton_onnx._protobuf import dtype_name, storage_bytes, walk_graphs, walk_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, TensorProto

_KINDS = ("uint8", "uint16", "uint32")
_SEEN = ("QuantizeLinear", "DequantizeLinear")
"""Operators that stay in the graph even where all their inputs are constants."""
_FOLDED = 1 << 16
"""Bytes of constants up to which a node that has no other inputs is computed beforehand."""


def unsigned_constants(model: ModelProto) -> list[dict[str, Any]]:
    """Return the uses of constants of uint8, uint16 and uint32.

    A use does not count where everything that the node reads is a small constant: its result is
    one, too.

    Returns:
        JSON objects with ``dtype``, ``operator``, ``where`` (the first) and ``count``, one for
        each pair of dtype and operator, in the graph's order.
    """
    kinds = {t.name: dtype_name(t.data_type) for t in _tensors(model)}
    sizes = {t.name: storage_bytes(t) for t in _tensors(model)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for node in walk_nodes(model):
        if node.op_type == "Constant":
            continue
        read = [name for name in node.input if name]
        known = bool(read) and all(name in sizes for name in read)
        if known and node.op_type not in _SEEN and sum(sizes[n] for n in read) <= _FOLDED:
            sizes |= dict.fromkeys(node.output, 0)
            continue
        for kind in dict.fromkeys(kinds.get(name, "") for name in read):
            if kind in _KINDS:
                use = {"dtype": kind, "operator": node.op_type, "where": place(node), "count": 0}
                found.setdefault((kind, node.op_type), use)["count"] += 1
    return list(found.values())


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in walk_graphs(model.graph):
        yield from graph.initializer
    for node in walk_nodes(model):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensor = type(attribute.t)()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    yield tensor


__all__ = ["unsigned_constants"]
