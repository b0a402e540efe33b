"""Which products keep their weights in few bits, with how many, and what stays float and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_compress._build import require_layers, tables
from lepton_compress._select import Selection, weight_axis, why_no_product
from lepton_core.recipe import Layer

if TYPE_CHECKING:
    from onnx import NodeProto

    from lepton_compress._graph import Graph
    from lepton_compress._options import Options

SMALLEST_MATRIX = 4096
"""Matrices of fewer values stay float: scales and a kernel of their own would eat the gain."""

_NORMS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization")
_NORMS += ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_RECURRENT = ("LSTM", "GRU", "RNN")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LEFT_FLOAT = (
    (_CONVOLUTIONS, "convolutions are left to int8"),
    (_NORMS, "a norm has few weights"),
    (_RECURRENT, "recurrent state would collect the error of every step"),
    (("Gather",), "embedding tables stay float unless --option tables=int8 is given"),
)
_OTHER = "biases and other constants stay float"


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product with a constant weight.

    Attributes:
        name: Its first output.
        op: ``"MatMul"`` or ``"Gemm"``.
        source: The value that it multiplies.
        weight: Its weight.
        axis: Axis of the weight that runs over inputs.
        bits: How many its integers get.
    """

    name: str
    op: str
    source: str
    weight: str
    axis: int
    bits: int

    @property
    def layer(self) -> Layer:
        """Its entry in a recipe."""
        return Layer(self.op, self.name, (), self.weight, mode="weight")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The decision for one pivot.

    Attributes:
        products: In topological order.
        tables: Lookups whose tables are int8 per channel.
        kept_float: Operators with weights that stay float, with the reason.
    """

    products: tuple[Product, ...]
    tables: dict[str, Layer]
    kept_float: dict[str, str]


def choose_products(graph: Graph, options: Options) -> Chosen:
    """Choose the weights that are stored in few bits.

    Matrix products with a constant weight of at least :data:`SMALLEST_MATRIX` values and a block of
    inputs; convolutions are left to int8, norms and biases stay float, and so do embedding tables
    unless ``tables`` is int8. The first and the last matrix get ``ends`` bits if there are others.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is none.
    """
    found: dict[str, Product] = {}
    reasons: dict[str, str] = {}
    looked_up = tables(graph, options.keep) if options.tables == "int8" else {}
    for name, node in graph.nodes.items():
        if name in looked_up or not _has_weight(graph, node):
            continue
        reason = _reason(graph, node, options)
        if reason:
            reasons[name] = reason
        else:
            inputs = 1 - (weight_axis(graph, node) or 0)
            found[name] = Product(
                name, node.op_type, node.input[0], node.input[1], inputs, options.bits
            )
    for name, reason in _shared(graph, found).items():
        reasons[name] = reason
        del found[name]
    layers = {n: p.layer for n, p in found.items()}
    require_layers(Selection(layers, reasons), graph)
    ordered = {n: reasons[n] for n in graph.nodes if n in reasons}
    return Chosen(_with_ends(graph, found, options), looked_up, ordered)


def _has_weight(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in ("MatMul", "Gemm"):
        return True
    return any(n in graph.weights and graph.is_float(n) for n in node.input)


def _reason(graph: Graph, node: NodeProto, options: Options) -> str:
    """Say why an operator's weight stays float, or nothing."""
    name, op = node.output[0], node.op_type
    if {name, node.name, op, *node.output} & set(options.keep):
        return "asked for"
    if op not in ("MatMul", "Gemm"):
        return next((why for ops, why in _LEFT_FLOAT if op in ops), _OTHER)
    return why_no_product(graph, node) or _too_small(graph, node, options)


def _too_small(graph: Graph, node: NodeProto, options: Options) -> str:
    shape = graph.array(node.input[1]).shape
    inputs = shape[1 - (weight_axis(graph, node) or 0)]
    if inputs < options.block:
        return f"it has {inputs} inputs, fewer than a block of {options.block}"
    if shape[0] * shape[1] < SMALLEST_MATRIX:
        return f"its weight has fewer than {SMALLEST_MATRIX} values"
    return ""


def _shared(graph: Graph, found: dict[str, Product]) -> dict[str, str]:
    """Return products whose weight something else reads too, or reads along another axis."""
    odd: dict[str, str] = {}
    axes: dict[str, int] = {}
    for name, product in found.items():
        weight = product.weight
        readers = {node.output[0] for node in graph.readers[weight]}
        if weight in graph.outputs or not readers <= found.keys():
            odd[name] = f"another operator reads {weight!r} as well"
        elif axes.setdefault(weight, product.axis) != product.axis:
            odd[name] = f"an earlier operator reads {weight!r} along another axis"
    clashing = {found[name].weight for name in odd}
    return odd | {
        n: f"another operator reads {p.weight!r} as well"
        for n, p in found.items()
        if p.weight in clashing and n not in odd
    }


def _with_ends(graph: Graph, found: dict[str, Product], options: Options) -> tuple[Product, ...]:
    """Give the first and the last products more bits, unless there are no others."""
    ends = _ends(graph, found)
    shared = {found[name].weight for name in ends}
    ends |= {name for name, product in found.items() if product.weight in shared}
    if len(ends) == len(found):
        ends = set()
    raised = max(options.bits, options.ends)
    return tuple(
        Product(p.name, p.op, p.source, p.weight, p.axis, raised) if name in ends else p
        for name, p in found.items()
    )


def _ends(graph: Graph, found: dict[str, Product]) -> set[str]:
    """Return products with no weights of a layer before them, or none behind them."""
    heavy = {name for name, node in graph.nodes.items() if _is_layer(graph, node)}
    after: set[str] = set()
    first = set()
    for name, node in graph.nodes.items():
        late = any(n in after for n in node.input)
        if name in found and not late:
            first.add(name)
        if late or name in heavy:
            after |= set(node.output)
    before: set[str] = set()
    last = set()
    for name, node in reversed(graph.nodes.items()):
        early = any(n in before for n in node.output)
        if name in found and not early:
            last.add(name)
        if early or name in heavy:
            before |= set(node.input)
    return first | last


def _is_layer(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in (*_CONVOLUTIONS, *_RECURRENT):
        return True
    held = {"Gather": node.input[:1], "MatMul": node.input[:2], "Gemm": node.input[1:2]}
    return any(n in graph.weights and graph.is_float(n) for n in held.get(node.op_type, ()))


def groups(products: tuple[Product, ...]) -> list[list[Product]]:
    """Return products that multiply the same value with equally many bits, in order."""
    found: dict[tuple[str, int], list[Product]] = {}
    for product in products:
        found.setdefault((product.source, product.bits), []).append(product)
    return list(found.values())


__all__ = ["SMALLEST_MATRIX", "Chosen", "Product", "choose_products", "groups"]
