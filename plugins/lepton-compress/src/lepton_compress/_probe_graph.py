"""Graphs of one small operator for each kind of operator that is planned, with their recipe.

Each planned operator is cut out of the pivot with what is fused behind it, in the types and ranks
that it has there, and with a weight of few output channels. The cuts stand side by side in one
graph and share nothing, so that one call answers for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper, shape_inference

from lepton_compress._calibrate import Range
from lepton_compress._graph import Graph, attribute
from lepton_compress._prunable import SMALLEST
from lepton_compress._rounding import Rounded, round_group
from lepton_compress._scales import activations, weights
from lepton_core.recipe import Layer, PivotId, Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lepton_compress._options import Options
    from lepton_compress._products import Product

CHANNELS = 8
"""Output channels that a weight keeps."""

_FLOAT_CHANNELS = 64
"""The same where the weight stays float: tables may belong to groups of channels, and small
weights stay whole."""

_ROWS = 16
_RANGE = Range(-1.0, 1.0, -1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """One operator as it is to be lowered.

    Attributes:
        name: Its first output in the pivot.
        layer: Its entry in a recipe.
        wide: Whether its activations have 16 bits.
        optional: Whether only float operators read what it yields.
        product: How its weight is stored by block, if it is.
        form: What becomes of its weight where that stays float, for people: pruned, a palette.
    """

    name: str
    layer: Layer
    wide: bool = False
    optional: bool = False
    product: Product | None = None
    form: str = ""

    @property
    def dtype(self) -> str:
        """What it computes with or stores, for people."""
        if self.form:
            return self.form
        if self.product is not None:
            return f"weights of {self.product.bits} bits by block"
        if self.layer.mode == "weight":
            return "int8 weights"
        weight = " and int8 weights" if self.layer.weight else ""
        if self.layer.mode == "dynamic":
            return f"int8 inputs of dynamic scale{weight}"
        return f"{'int16' if self.wide else 'int8'} inputs{weight}"


@dataclass
class _Parts:
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: dict[str, ValueInfoProto] = field(default_factory=dict)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def key_of_operator(graph: Graph, one: Planned, options: Options) -> str:
    """Return what tells one kind of operator from another: types, ranks, attributes, scheme."""
    chain = _chain(graph, one)
    words = [one.dtype, one.layer.mode, f"optional={one.optional}"]
    for node in chain:
        attributes = sorted(a.SerializeToString(deterministic=True).hex() for a in node.attribute)
        kinds = [
            f"{graph.types.get(n, 0)}:{len(graph.shapes[n]) if n in graph.shapes else '?'}"
            f"{'c' if n in graph.weights else ''}"
            for n in node.input
        ]
        words += [node.domain, node.op_type, *attributes, *kinds]
    if one.product is not None:
        length = int(graph.shapes[one.product.weight][one.product.axis] or 0)
        words += [str(options.block), str(options.symmetric), f"rest={length % options.block > 0}"]
        words += [options.scales]
    return "|".join(words)


def _chain(graph: Graph, one: Planned) -> list[NodeProto]:
    """Return the operator and those fused behind it, in order."""
    found = [graph.nodes[one.name]]
    for name in one.layer.fused:
        node = graph.producer[name]
        if node is not found[-1]:
            found.append(node)
    return found


def size_of_weight(graph: Graph, one: Planned) -> int:
    """Return how many values its weight has; 0 if it has none."""
    if one.layer.weight is None:
        return 0
    return int(np.prod([d or 0 for d in graph.shapes[one.layer.weight]], dtype=np.int64))


def neighbours(one: Planned, others: Sequence[Planned]) -> list[Planned]:
    """Return an operator among those that it reads from and that read from it, in order."""
    before = set(one.layer.inputs)
    return [
        other for other in others
        if other is one or other.layer.output in before or one.layer.output in other.layer.inputs
    ]  # fmt: skip


def small_model(
    graph: Graph, planned: Sequence[Planned], *, together: bool = False
) -> tuple[ModelProto, list[Planned]]:
    """Return one graph with a copy of each operator, and the operators as they are named there.

    Args:
        graph: The pivot.
        planned: The operators.
        together: They are connected as they are in the pivot, with their whole weights; otherwise
            each is small and stands alone.
    """
    parts = _Parts()
    if together:
        found = _add(graph, planned, "p/", parts, whole=True)
    else:
        found = [_add(graph, [one], f"p{number}/", parts)[0] for number, one in enumerate(planned)]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in parts.arrays.items()]
    made = helper.make_graph(
        parts.nodes, "operators", list(parts.inputs.values()), parts.outputs, tensors
    )
    model = helper.make_model(made, ir_version=graph.model.ir_version)
    del model.opset_import[:]
    model.opset_import.extend(graph.model.opset_import)
    return shape_inference.infer_shapes(model), found


def _add(
    graph: Graph, group: Sequence[Planned], prefix: str, parts: _Parts, *, whole: bool = False
) -> list[Planned]:
    inside: set[str] = set()
    read: set[str] = set()
    for one in group:
        chain = _chain(graph, one)
        width = _kept_channels(graph, chain[0], one)
        for node in chain:
            _add_node(node, prefix, parts)
            for name in filter(None, node.input):
                if name in graph.weights:
                    array = graph.array(name)
                    cut = array if whole else _cut(array, chain[0], one, name, width)
                    parts.arrays[prefix + name] = cut
                elif name not in inside:
                    parts.inputs[prefix + name] = _info(graph, name, prefix)
            inside |= set(node.output)
            read |= set(node.input)
    for one in group:
        if one.layer.output not in read:
            kind = graph.types.get(one.layer.output) or 1
            name = prefix + one.layer.output
            parts.outputs.append(helper.make_tensor_value_info(name, kind, None))
    return [_renamed(one, prefix) for one in group]


def _add_node(node: NodeProto, prefix: str, parts: _Parts) -> None:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + (node.name or node.output[0])
    copy.input[:] = [prefix + n if n else "" for n in node.input]
    copy.output[:] = [prefix + n if n else "" for n in node.output]
    parts.nodes.append(copy)


def _renamed(one: Planned, prefix: str) -> Planned:
    layer, product = one.layer, one.product

    def named(name: str | None) -> str | None:
        return None if name is None else prefix + name

    layer = replace(
        layer, output=prefix + layer.output, inputs=tuple(prefix + n for n in layer.inputs),
        weight=named(layer.weight), bias=named(layer.bias),
        fused=tuple(prefix + n for n in layer.fused),
    )  # fmt: skip
    if product is not None:
        product = replace(
            product, name=prefix + product.name, source=prefix + product.source,
            weight=prefix + product.weight,
        )  # fmt: skip
    return replace(one, name=prefix + one.name, layer=layer, product=product)


def _info(graph: Graph, name: str, prefix: str) -> ValueInfoProto:
    known = graph.model.graph
    for value in (*known.value_info, *known.input, *known.output):
        if value.name == name:
            copy = ValueInfoProto()
            copy.CopyFrom(value)
            copy.name = prefix + name
            return copy
    return helper.make_tensor_value_info(prefix + name, graph.types.get(name) or 1, None)


def _kept_channels(graph: Graph, node: NodeProto, one: Planned) -> int:
    """Return the output channels that the small copy of an operator's weight has."""
    if one.layer.weight is None:
        return 0
    groups = int(attribute(node, "group", 1)) if node.op_type in ("Conv", "ConvTranspose") else 1
    shape = graph.shapes[one.layer.weight]
    total = int(shape[_output_axis(node, len(shape))] or 1)
    channels = CHANNELS
    if one.form:
        channels = max(_FLOAT_CHANNELS, -(-SMALLEST * total // size_of_weight(graph, one)))
    if node.op_type == "ConvTranspose":
        return min(channels, int(shape[1] or 1)) if groups == 1 else int(shape[1] or 1) * groups
    return min(max(channels // groups, 1) * groups, total)


def _output_axis(node: NodeProto, rank: int) -> int:
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1 if node.op_type == "ConvTranspose" else rank - 1


def _cut(array: NDArray[Any], node: NodeProto, one: Planned, name: str, width: int) -> NDArray[Any]:
    """Return a constant of the small copy: what follows output channels is as long as they are."""
    if name == one.layer.weight:
        if node.op_type == "Gather":
            return array[: max(_ROWS, -(-SMALLEST * len(array) // array.size) if one.form else 0)]
        if node.op_type == "ConvTranspose" and int(attribute(node, "group", 1)) > 1:
            return array
        axis = _output_axis(node, array.ndim)
        return np.ascontiguousarray(np.take(array, range(width), axis=axis))
    if one.layer.weight is not None and name in (one.layer.bias, *node.input[2:3]):
        return array[:width] if array.ndim == 1 and array.size > width else array
    return array


def small_recipe(
    model: ModelProto, planned: Sequence[Planned], digest: str, opset: int, options: Options
) -> tuple[Recipe, dict[str, NDArray[np.generic]]]:
    """Return the recipe of a graph of :func:`small_model`; its scales follow from no samples."""
    graph = Graph(model)
    own = {one.name: one.layer for one in planned if one.product is None}
    static = {name: layer for name, layer in own.items() if layer.mode == "static"}
    wide = any(one.wide for one in planned)
    read = {n: _RANGE for layer in static.values() for n in (*layer.inputs, layer.output)}
    entries = activations(graph, static, read, "minmax", wide=wide)
    for one in planned:
        if one.name in static and not one.optional:
            entries[one.layer.output] = replace(entries[one.layer.output], optional=False)
    entries |= weights(graph, own, entries)
    rounded = Rounded()
    for one in planned:
        if one.product is not None:
            round_group(graph, [one.product], options, rounded, method="rtn")
    modes = {"static": f"int{16 if wide else 8}-static", "dynamic": "int8-dynamic"}
    kinds = {one.layer.mode for one in planned}
    scheme = next((modes[m] for m in ("static", "dynamic") if m in kinds), "int8-weight-only")
    if rounded.entries:
        low = min(entry.bits for entry in rounded.entries.values())
        scheme = "mixed" if static else f"int{4 if low <= 4 else 8}-weight-only"
    recipe = Recipe(
        PivotId(digest, opset), scheme, entries, {one.name: one.layer for one in planned},
        blocks=rounded.entries,
    )  # fmt: skip
    return recipe, rounded.arrays


__all__ = [
    "Planned", "key_of_operator", "neighbours", "size_of_weight", "small_model", "small_recipe",
]  # fmt: skip
