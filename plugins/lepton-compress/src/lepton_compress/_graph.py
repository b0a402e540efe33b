"""What the engine needs to know about a pivot's graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNKNOWN_DIM = 64
"""Length assumed for a dimension that is not known, where only sizes are estimated."""


@dataclass
class Graph:
    """Indices over the outermost graph of a pivot whose weights are in memory.

    Attributes:
        model: The pivot.
        nodes: Nodes by first output, in topological order.
        producer: The node that yields a value.
        readers: Nodes that read a value; nested graphs count for the node that holds them.
        weights: Initializers by name.
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs.
        types: Element type by value.
        shapes: Known shape by value; ``None`` stands for an unknown length.
    """

    model: ModelProto
    nodes: dict[str, NodeProto] = field(default_factory=dict)
    producer: dict[str, NodeProto] = field(default_factory=dict)
    readers: dict[str, list[NodeProto]] = field(default_factory=dict)
    weights: dict[str, TensorProto] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.weights = {t.name: t for t in graph.initializer}
        self.inputs = tuple(v.name for v in graph.input if v.name not in self.weights)
        self.outputs = tuple(v.name for v in graph.output)
        for node in graph.node:
            self.nodes[node.output[0]] = node
            for name in node.output:
                self.producer[name] = node
            for name in dict.fromkeys((*node.input, *_captured(node))):
                if name:
                    self.readers.setdefault(name, []).append(node)
        for value in (*graph.value_info, *graph.input, *graph.output):
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.shapes[value.name] = tuple(
                    d.dim_value if d.WhichOneof("value") == "dim_value" else None
                    for d in tensor.shape.dim
                )
        for name, weight in self.weights.items():
            self.types[name] = weight.data_type
            self.shapes[name] = tuple(weight.dims)

    def is_float(self, name: str) -> bool:
        """Tell whether a value is float32."""
        return self.types.get(name) == TensorProto.FLOAT

    def is_real(self, name: str) -> bool:
        """Tell whether a value is float32 or float16."""
        return self.types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16)

    def array(self, name: str) -> NDArray[Any]:
        """Return a weight's values."""
        return numpy_helper.to_array(self.weights[name])

    def only_reader(self, name: str) -> NodeProto | None:
        """Return the one node that reads a value, ``None`` if others do or it is an output."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def row_bytes(self, name: str) -> int:
        """Estimate a float value's bytes per sample; a first axis of unknown length is rows."""
        shape = self.shapes.get(name, (None,))
        dims = [_UNKNOWN_DIM if d is None else d for d in shape]
        if shape and shape[0] is None:
            dims = dims[1:]
        return 4 * int(np.prod(dims, dtype=np.int64))


def names_of(node: NodeProto) -> set[str]:
    """Return every name that an operator can be asked for by: its own, its outputs', its type."""
    return {node.name, node.op_type, *node.output} - {""}


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401
    """Return an attribute's value, *default* if the node does not have it."""
    for found in node.attribute:
        if found.name == name:
            if found.type == AttributeProto.INT:
                return found.i
            if found.type == AttributeProto.FLOAT:
                return found.f
            if found.type == AttributeProto.INTS:
                return tuple(found.ints)
            if found.type == AttributeProto.STRING:
                return found.s.decode()
    return default


def _captured(node: NodeProto) -> set[str]:
    if not any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
        return set()
    from lepton_onnx.operators import captured

    return captured(node)


__all__ = ["Graph", "attribute", "names_of"]
