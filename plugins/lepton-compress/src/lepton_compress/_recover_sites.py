"""Where channels can be rescaled without changing what a graph computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_compress._graph import Graph, attribute
from lepton_compress._select import PRODUCTS, is_optional, weight_axis, why_no_product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto

    from lepton_core.recipe import Layer

_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "ReduceMean", "ReduceMax", "Identity",
)  # fmt: skip
"""Operators with ``f(s x) = s f(x)`` for every positive s that keep channels where they are."""


@dataclass(frozen=True, slots=True)
class Site:
    """One value whose channels can be rescaled.

    Attributes:
        value: The value.
        axis: Its channel axis.
        channels: How many factors there are.
        divided: Axis by weight or bias that yields it; empty if the value itself is multiplied.
        multiplied: Axis by weight that reads it; empty if only float operators do.
        source: Node that yields it, up to activations and pooling; empty for inputs of the graph.
        product: Weight of a product among *divided*, if there is one.
    """

    value: str
    axis: int
    channels: int
    divided: Mapping[str, int] = field(default_factory=dict)
    multiplied: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    product: str = ""


def reader_sites(graph: Graph, layers: Mapping[str, Layer]) -> list[Site]:
    """Return values that products with constant weights read, in topological order."""
    order = [*graph.inputs, *(n for node in graph.nodes.values() for n in node.output)]
    yielded = {layer.output for layer in layers.values()}
    found = (_reader_site(graph, layers, value, yielded) for value in order)
    return [site for site in found if site is not None]


def output_sites(graph: Graph, layers: Mapping[str, Layer]) -> list[Site]:
    """Return quantized outputs of products that only float operators read."""
    read = {n for layer in layers.values() for n in layer.inputs}
    sites = []
    for layer in layers.values():
        if layer.weight is None or layer.output in read or is_optional(layer, dict(layers)):
            continue
        origin = _origin(graph, layer.output)
        if origin is not None and origin.product and layer.mode == "static":
            sites.append(origin)
    return sites


def _reader_site(
    graph: Graph, layers: Mapping[str, Layer], value: str, yielded: set[str]
) -> Site | None:
    readers = graph.readers.get(value, [])
    multiplied: dict[str, int] = {}
    axis, width = 0, 0
    for node in readers:
        layer = layers.get(node.output[0])
        if layer is None or layer.weight is None or value not in layer.inputs:
            continue
        where = _input_axis(graph, node)
        if where is None or not _owned(graph, layer.weight):
            return None
        multiplied[layer.weight] = where
        rank = len(graph.shapes.get(value, ()))
        before = axis, width
        axis = 1 if node.op_type.startswith("Conv") else rank - 1
        width = int(graph.shapes[layer.weight][where] or 0)
        if len(multiplied) > 1 and before != (axis, width):
            return None  # factors of one axis would not reach the weights of the other
    if not multiplied or axis < 1:
        return None
    origin = _origin(graph, value)
    alone = len(multiplied) == len(readers) and value not in graph.outputs
    if alone and origin is not None and not width % origin.channels:
        return Site(
            value, axis, origin.channels, origin.divided, multiplied, origin.source, origin.product
        )
    if value in yielded:  # the integers of others
        return None
    made = graph.producer.get(value)
    source = "" if made is None else made.name or made.output[0]
    return Site(value, axis, width, {}, multiplied, source)


def _input_axis(graph: Graph, node: NodeProto) -> int | None:
    """Return the axis of a product's weight that runs over its input's channels."""
    shape = graph.shapes[node.input[1]]
    if node.op_type == "MatMul":
        return 0
    if node.op_type == "Gemm":
        return 1 if attribute(node, "transB", 0) else 0
    group = int(attribute(node, "group", 1))
    if group == 1:
        return 1 if node.op_type == "Conv" else 0
    deep = node.op_type == "Conv" and shape[1] == 1 and shape[0] == group
    return 0 if deep else None


def _owned(graph: Graph, name: str) -> bool:
    """Tell whether one operator alone reads a weight."""
    return graph.only_reader(name) is not None


def _origin(graph: Graph, value: str) -> Site | None:
    """Return what yields a value up to positive factors, as a site without readers."""
    current, flat = value, False
    while True:
        node = graph.producer.get(current)
        if node is None or len([n for n in node.output if n]) > 1:
            return None
        if node.op_type in PRODUCTS:
            return _of_product(graph, value, node, None)
        if node.op_type == "LayerNormalization" and not flat:
            return _of_norm(graph, value, node)
        if node.op_type == "Add":
            source = _biased_product(graph, node)
            return None if source is None else _of_product(graph, value, source, node)
        flattens = _flattens(graph, node)
        if not (node.op_type in _HOMOGENEOUS and _same_channels(graph, node)) and not flattens:
            return None
        flat = flat or flattens
        current = node.input[0]
        if graph.only_reader(current) is None:
            return None


def _same_channels(graph: Graph, node: NodeProto) -> bool:
    """Tell whether a homogeneous operator leaves axis 1 (or the last one of a matrix) alone."""
    if node.op_type == "PRelu":
        return node.input[1] in graph.weights
    if not node.op_type.startswith("Reduce"):
        return True
    axes = _axes(graph, node)
    rank = len(graph.shapes.get(node.input[0], ()))
    return rank == 4 and bool(axes) and all(a % rank >= 2 for a in axes)


def _axes(graph: Graph, node: NodeProto) -> tuple[int, ...]:
    if len(node.input) > 1 and node.input[1] in graph.weights:
        return tuple(int(a) for a in graph.array(node.input[1]).reshape(-1))
    return tuple(attribute(node, "axes", ()))


def _flattens(graph: Graph, node: NodeProto) -> bool:
    """Tell whether a node joins channels and places of a feature map, channels outermost."""
    before, after = (graph.shapes.get(n, ()) for n in (node.input[0], node.output[0]))
    if node.op_type not in ("Flatten", "Reshape") or len(before) != 4 or len(after) != 2:
        return False
    if node.op_type == "Flatten" and attribute(node, "axis", 1) != 1:
        return False
    sizes = before[1:]
    if None in sizes or after[1] is None:
        return False
    total = 1
    for size in sizes:
        total *= int(size or 0)
    return total == after[1]


def _biased_product(graph: Graph, node: NodeProto) -> NodeProto | None:
    """Return the product that an Add gives its bias to."""
    for value, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        source = graph.producer.get(value)
        if source is None or source.op_type != "MatMul" or graph.only_reader(value) is None:
            continue
        shape = graph.shapes.get(other, ())
        if other in graph.weights and len(shape) == 1 and graph.is_float(other):
            return source
    return None


def _of_product(graph: Graph, value: str, node: NodeProto, add: NodeProto | None) -> Site | None:
    weight = node.input[1]
    if weight not in graph.weights or why_no_product(graph, node) or not _owned(graph, weight):
        return None
    axis = weight_axis(graph, node)
    biases = [n for n in node.input[2:] if n]
    if add is not None:
        biases = [n for n in add.input if n in graph.weights]
    if axis is None or not all(_owned(graph, bias) for bias in biases):
        return None
    channels = int(graph.shapes[weight][axis] or 0)
    rank = len(graph.shapes.get(value, ()))
    if any(graph.shapes[bias] != (channels,) for bias in biases) or not channels:
        return None
    own = 1 if node.op_type.startswith("Conv") else rank - 1
    divided = {weight: axis, **dict.fromkeys(biases, 0)}
    return Site(value, own, channels, divided, {}, node.name or node.output[0], weight)


def _of_norm(graph: Graph, value: str, node: NodeProto) -> Site | None:
    parts = [n for n in node.input[1:] if n]
    rank = len(graph.shapes.get(value, ()))
    if attribute(node, "axis", -1) % max(rank, 1) != rank - 1:
        return None
    if not all(n in graph.weights and _owned(graph, n) for n in parts):
        return None
    channels = int(graph.shapes[parts[0]][0] or 0)
    divided = dict.fromkeys(parts, 0)
    return Site(value, rank - 1, channels, divided, {}, node.name or node.output[0])


__all__ = ["Site", "output_sites", "reader_sites"]
