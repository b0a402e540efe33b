"""Which operators compute with integers, and which stay float and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_compress._graph import Graph, attribute
from lepton_core.recipe import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from onnx import NodeProto

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are worth integers by themselves: they hold the weights and the work."""

SAME_SCALE = (
    "AveragePool", "Concat", "DepthToSpace", "Flatten", "GlobalAveragePool", "GlobalMaxPool",
    "MaxPool", "Reshape", "Resize", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators whose inputs and output have one scale, so that integers pass through."""

ARITHMETIC = ("Add", "Mul")
LOGISTIC = ("Sigmoid",)
FIXED = ("Softmax", "Sigmoid")
"""Operators whose output lies in 0..1 and has the scale 1/256 and the zero point -128."""

NOT_FLOAT32 = "its weight is not float32"

_YIELDS_FLOAT = ("Gemm", "MatMul")
"""Operators whose integer kernels can yield float."""

_RECURRENT = ("LSTM", "GRU", "RNN")
_MOVES = ("Identity", "Cast", "Shape", "Constant", "ConstantOfShape", "Expand", "Split", "Pad")


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision for one pivot.

    Attributes:
        layers: Integer operators, by first output, in topological order.
        kept_float: Float operators with the reason, by first output.
    """

    layers: dict[str, Layer]
    kept_float: dict[str, str]


def select(graph: Graph, keep: Collection[str] = ()) -> Selection:
    """Choose the integer operators of a pivot for static int8.

    Products with constant weights come first. Around them, operators through which integers pass
    (pooling, concat, sums, …) join as long as every input is an integer already and some integer
    operator reads the result; an island of float between integers costs two conversions and one
    inside float gains nothing.

    Args:
        graph: The pivot.
        keep: Names of values, nodes or operator types to keep float.
    """
    layers: dict[str, Layer] = {}
    reasons: dict[str, str] = {}
    for name, node in graph.nodes.items():
        if not any(graph.is_float(n) for n in node.output):
            if node.op_type in PRODUCTS and _stored_otherwise(graph, node.input[1]):
                reasons[name] = NOT_FLOAT32
            continue
        asked = {name, node.name, node.op_type, *node.output} & set(keep)
        found = "asked for" if asked else _candidate(graph, node)
        if isinstance(found, Layer):
            layers[name] = found
        else:
            reasons[name] = found
    _prune(graph, layers, reasons)
    quiet = {n for layer in layers.values() for n in layer.fused}
    kept = {
        name: reason
        for name, reason in reasons.items()
        if name not in quiet and graph.nodes[name].op_type not in _MOVES
    }
    return Selection(_with_optional_order(graph, layers), kept)


def _stored_otherwise(graph: Graph, name: str) -> bool:
    from onnx import TensorProto

    floats = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    return name in graph.weights and graph.types.get(name) in floats


def _with_optional_order(graph: Graph, layers: dict[str, Layer]) -> dict[str, Layer]:
    return {name: layers[name] for name in graph.nodes if name in layers}


def is_optional(layer: Layer, layers: dict[str, Layer]) -> bool:
    """Tell whether only float operators read a layer's output and its kernel can yield float."""
    read = any(layer.output in other.inputs for other in layers.values())
    return layer.op in _YIELDS_FLOAT and not read


# --- one operator ------------------------------------------------------------------------------


def _candidate(graph: Graph, node: NodeProto) -> Layer | str:
    op = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return f"operators of the domain {node.domain} have no integer rule"
    for names, rule in _RULES:
        if op in names:
            return rule(graph, node)
    if op in _RECURRENT:
        return "recurrent state would collect the rounding of every step"
    return f"{op} has no integer rule"


def _product(graph: Graph, node: NodeProto) -> Layer | str:
    name, op = node.output[0], node.op_type
    source, weight = node.input[0], node.input[1]
    if op == "MatMul" and not {source, weight} & graph.weights.keys():
        return Layer(op, name, (source, weight))
    reason = why_no_product(graph, node)
    if reason:
        return reason
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    output, fused = name, []
    if op == "MatMul":
        reader = graph.only_reader(name)
        other = _bias_of_add(graph, reader, name, _channels(graph, node))
        if reader is not None and other is not None:
            bias, output = other, reader.output[0]
            fused.append(output)
    output, fused = _with_activation(graph, output, fused)
    return Layer(op, output, (source,), weight, bias, tuple(fused))


def why_no_product(graph: Graph, node: NodeProto) -> str:
    """Say why a product has no integer form, checked in the order of the list."""
    weight = node.input[1]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    scaled = node.op_type == "Gemm" and (
        attribute(node, "transA", 0)
        or attribute(node, "alpha", 1.0) != 1.0
        or (bias is not None and attribute(node, "beta", 1.0) != 1.0)
    )
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("its left operand is a constant", lambda: node.input[0] in graph.weights),
        ("its weight is computed", lambda: weight not in graph.weights),
        (NOT_FLOAT32, lambda: not graph.is_float(weight)),
        ("its weight is an output of the model", lambda: weight in graph.outputs),
        ("a Gemm with transA, alpha or beta has no integer rule", lambda: bool(scaled)),
        (
            "its weight does not have two axes",
            lambda: node.op_type == "MatMul" and len(graph.shapes[weight]) != 2,
        ),
        ("its weight is empty", lambda: not graph.array(weight).size),
        (
            "its weight holds NaN or infinite values",
            lambda: not np.isfinite(graph.array(weight)).all(),
        ),
        (
            "its bias is computed or has another shape than its channels",
            lambda: bias is not None and not _is_bias(graph, bias, _channels(graph, node)),
        ),
    )
    return next((reason for reason, applies in checks if applies()), "")


def _channels(graph: Graph, node: NodeProto) -> int:
    shape = graph.shapes[node.input[1]]
    if node.op_type == "ConvTranspose":
        return int(shape[1] or 0) * int(attribute(node, "group", 1))
    first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
    return int((shape[0] if first else shape[-1]) or 0)


def weight_axis(graph: Graph, node: NodeProto) -> int | None:
    """Return the axis of a weight that runs over output channels, ``None`` for one scale."""
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return len(graph.shapes[node.input[1]]) - 1


def _is_bias(graph: Graph, name: str, channels: int) -> bool:
    if name not in graph.weights or not graph.is_float(name):
        return False
    shape = graph.shapes[name]
    return len(shape) == 1 and shape[0] == channels


def _bias_of_add(graph: Graph, add: NodeProto | None, value: str, channels: int) -> str | None:
    if add is None or add.op_type != "Add":
        return None
    other = add.input[1] if add.input[0] == value else add.input[0]
    return other if _is_bias(graph, other, channels) else None


def _with_activation(graph: Graph, output: str, fused: list[str]) -> tuple[str, list[str]]:
    reader = graph.only_reader(output)
    if reader is not None and _is_clipping(graph, reader, output):
        return reader.output[0], [*fused, reader.output[0]]
    return output, fused


def _is_clipping(graph: Graph, node: NodeProto, value: str) -> bool:
    """Tell whether a node only clips, which saturating integers do by themselves."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or node.input[0] != value:
        return False
    return all(n in graph.weights for n in node.input[1:] if n)


def _same_scale(graph: Graph, node: NodeProto) -> Layer | str:
    data = tuple(node.input) if node.op_type == "Concat" else (node.input[0],)
    if not all(graph.is_float(n) for n in data):
        return "it does not move float values"
    if any(n in graph.weights for n in data):
        return "it joins or moves a constant"
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation leaves the range of its input"
    if len([n for n in node.output if n]) > 1:
        return "it has a second output"
    return Layer(node.op_type, node.output[0], tuple(dict.fromkeys(data)))


def _logistic(graph: Graph, node: NodeProto) -> Layer | str:
    return Layer(node.op_type, node.output[0], (node.input[0],))


def _arithmetic(graph: Graph, node: NodeProto) -> Layer | str:
    if any(n in graph.weights for n in node.input):
        return "one operand is a constant"
    output, fused = _with_activation(graph, node.output[0], [])
    return Layer(node.op_type, output, tuple(dict.fromkeys(node.input)), fused=tuple(fused))


_RULES: tuple[tuple[tuple[str, ...], Callable[[Graph, NodeProto], Layer | str]], ...] = (
    (PRODUCTS, _product),
    (SAME_SCALE, _same_scale),
    (ARITHMETIC, _arithmetic),
    (LOGISTIC, _logistic),
)


# --- all operators -----------------------------------------------------------------------------


def _prune(graph: Graph, layers: dict[str, Layer], reasons: dict[str, str]) -> None:
    """Take out operators that integers do not pass through, until nothing changes."""
    changed = True
    while changed:
        changed = False
        yielded = {layer.output for layer in layers.values()}
        read = {n for layer in layers.values() for n in layer.inputs}
        for name, layer in list(layers.items()):
            reason = _why_not(graph, layer, yielded, read)
            if reason:
                del layers[name]
                reasons[name] = reason
                changed = True
        if not changed:
            changed = _drop_conflict(graph, layers, reasons)


def _why_not(graph: Graph, layer: Layer, yielded: set[str], read: set[str]) -> str:
    if layer.weight is not None:
        return ""
    available = yielded | set(graph.inputs) if layer.op in SAME_SCALE else yielded
    missing = [n for n in layer.inputs if n not in available]
    if missing:
        return f"its input {missing[0]!r} is float"
    if layer.op != "MatMul" and layer.output not in read:
        return "no integer operator reads its result"
    return ""


def _drop_conflict(graph: Graph, layers: dict[str, Layer], reasons: dict[str, str]) -> bool:
    """Take out the first Concat that would join a fixed scale with another one."""
    groups = equal_scales(layers)
    for name, layer in layers.items():
        if layer.op != "Concat":
            continue
        members = [v for v, root in groups.items() if root == groups[layer.output]]
        sources = [v for v in members if not _moved(layers, v)]
        fixed = [v for v in sources if is_fixed(graph, v)]
        if fixed and len(fixed) < len(sources):
            del layers[name]
            reasons[name] = f"it joins {fixed[0]!r}, whose scale is fixed, with another"
            return True
    return False


def is_fixed(graph: Graph, value: str) -> bool:
    """Tell whether a value's scale is fixed by rule."""
    node = graph.producer.get(value)
    return node is not None and node.op_type in FIXED


def _moved(layers: dict[str, Layer], value: str) -> bool:
    return value in layers and layers[value].op in SAME_SCALE


def equal_scales(layers: dict[str, Layer]) -> dict[str, str]:
    """Return for each value of integer operators the value whose scale it shares.

    The representative is the first that is produced; values that share with none stand for
    themselves.
    """
    parent: dict[str, str] = {}

    def find(value: str) -> str:
        parent.setdefault(value, value)
        while parent[value] != value:
            value = parent[value]
        return value

    for layer in layers.values():
        for value in (*layer.inputs, layer.output):
            find(value)
        if layer.op in SAME_SCALE:
            for value in (*layer.inputs, layer.output):
                one, other = find(layer.inputs[0]), find(value)
                parent[other] = one
    return {value: find(value) for value in parent}


__all__ = [
    "ARITHMETIC", "FIXED", "PRODUCTS", "SAME_SCALE", "Selection", "equal_scales", "is_fixed",
    "is_optional", "select", "weight_axis", "why_no_product",
]  # fmt: skip
