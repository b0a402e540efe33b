"""From a pivot, or a lowered one, to the exported program that coremltools reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, TensorProto, helper
from torch.utils._sympy.value_ranges import ValueRanges

from lepton_coreml._decompose import decomposed
from lepton_coreml._library import overrides
from lepton_onnx import pivot
from lepton_onnx.editing import replace_items
from lepton_torch.bridge import MAX_BATCH, BridgeModule, capture_graph, captured, read_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Signature

_AS_THEY_ARE = {"float32", "float16", "int32", "int64"}
"""Element types that coremltools passes: int64 becomes int32 there."""

_NARROWED = {"int64": "int32"}
_SPECIAL = 2
"""Lower bound that torch states of every size it was not told of."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What coremltools gets.

    Attributes:
        program: The exported program, in core ATen operators.
        symbols: Bounds of symbolic dimensions by name.
        weights: Name of the initializer by the name of its placeholder.
        outputs: Element types of the outputs, as Core ML's arrays have them.
        warnings: Dimensions that had to be fixed.
        lower: Smallest sizes that torch allows where they are more than 1, by symbol.
    """

    program: Any
    symbols: Mapping[str, tuple[int, int]]
    weights: Mapping[str, str]
    outputs: tuple[str, ...]
    warnings: tuple[str, ...]
    lower: Mapping[str, int]


def export(
    proto: ModelProto, *, dynamic: bool, max_batch: int, max_size: int, from_one: bool = True
) -> Exported:
    """Translate a graph to torch and capture it.

    Args:
        proto: The graph with its weights in memory; inputs and outputs have types that
            :func:`boundary` allows.
        dynamic: Whether symbolic dimensions stay open; else they are 1.
        max_batch: Largest size of a symbolic first dimension.
        max_size: Largest size of any other symbolic dimension.
        from_one: Whether sizes start at 1 where torch states 2: it does so for every size that it
            has not been told of, because it treats 1 as a case of its own.

    Raises:
        ConversionError: LPT-CONV-111 … 117, the graph has no translation to torch.
    """
    graph = read_graph(proto)
    module = BridgeModule(graph, overrides())
    found, warnings = capture_graph(module, graph.signature, dynamic)
    with captured():  # torch warns about its own pytrees
        program = decomposed(found.exported.run_decompositions({}))
    batch = {s.shape[0] for s in graph.signature.inputs if s.shape}
    bounds: dict[str, tuple[int, int]] = {}
    lower: dict[str, int] = {}
    for symbol, limits in list(program.range_constraints.items()):
        name = _name_of(program, found.signature, str(symbol))
        stated = max(1, int(limits.lower))
        low = 1 if from_one and stated == _SPECIAL else stated
        if stated > 1:
            lower[name or str(symbol)] = stated
        asked = max_batch if name in batch else max_size
        known = limits.upper.is_Integer and int(limits.upper) < MAX_BATCH
        high = max(low, min(asked, int(limits.upper)) if known else asked)
        program.range_constraints[symbol] = ValueRanges(low, high)
        bounds[name or str(symbol)] = (low, high)
    placeholders = {
        spec.arg.name: module.initializers.get(spec.target or "", spec.target or "")
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    }
    outputs = tuple(_NARROWED.get(s.dtype, s.dtype) for s in graph.signature.outputs)
    return Exported(program, bounds, placeholders, outputs, tuple(warnings), lower)


def _name_of(program: Any, signature: Signature, symbol: str) -> str:  # noqa: ANN401
    """Return what the signature calls a symbol of torch's."""
    names = program.graph_signature.user_inputs
    values = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    for name, spec in zip(names, signature.inputs, strict=True):
        for size, own in zip(values[name].shape, spec.shape, strict=True):
            if str(size) == symbol and isinstance(own, str):
                return own
    return ""


def boundary(proto: ModelProto) -> ModelProto:
    """Give inputs and outputs types that Core ML's arrays have: others become int32.

    Args:
        proto: The graph; it is not changed.

    Returns:
        A graph with a Cast behind such an input or before such an output.
    """
    contract = pivot.signature(proto)
    odd_inputs = {s.name for s in contract.inputs if s.dtype not in _AS_THEY_ARE}
    odd_outputs = {s.name for s in contract.outputs if s.dtype not in _AS_THEY_ARE}
    if not odd_inputs and not odd_outputs:
        return proto
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    front, behind = [], []
    for info in graph.input:
        if info.name in odd_inputs:
            kind = info.type.tensor_type.elem_type
            wide = TensorProto.FLOAT if kind == TensorProto.DOUBLE else TensorProto.INT32
            info.type.tensor_type.elem_type = wide
            inner = f"{info.name}/inside"
            front.append(helper.make_node("Cast", [info.name], [inner], name=inner, to=kind))
            _rename_uses(graph, info.name, inner)
    for info in graph.output:
        if info.name in odd_outputs:
            kind = info.type.tensor_type.elem_type
            wide = TensorProto.FLOAT if kind == TensorProto.DOUBLE else TensorProto.INT32
            info.type.tensor_type.elem_type = wide
            inner = f"{info.name}/inside"
            for node in graph.node:
                node.output[:] = [inner if n == info.name else n for n in node.output]
            _rename_uses(graph, info.name, inner)
            behind.append(helper.make_node("Cast", [inner], [info.name], name=inner, to=wide))
    replace_items(graph.node, [*front, *graph.node, *behind])
    return result


def _rename_uses(graph: Any, old: str, new: str) -> None:  # noqa: ANN401 - protobuf
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]


__all__ = ["Exported", "boundary", "export"]
