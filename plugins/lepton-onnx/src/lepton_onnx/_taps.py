"""Looking inside a pivot: its values, as further outputs, and with every operator alone.

*Tapping* makes inner values outputs as well; what is computed stays the same. *Cutting* at a value
lets its readers read a new input, ``NAME/fed``, so that each operator between cuts can be given
inputs of somebody's choice: what it then does wrong is its own fault, not that of what it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from lepton_core.errors import ConversionError
from lepton_core.types import ValueUse
from lepton_onnx._cleanup import captured, replace_items
from lepton_onnx._protobuf import dtype_name, walk_graphs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import GraphProto

FED = "/fed"
"""Ending of the input that stands for a value at which a graph is cut."""

_UNKNOWN_DIM = 64
"""Length assumed for a dimension that is not known, where only sizes are estimated."""


def values_of(model: ModelProto) -> tuple[ValueUse, ...]:
    """Return the values that operators of the outermost graph yield, in topological order.

    Values that follow from constants alone are left out: no sample changes them.
    """
    graph = model.graph
    infos = _infos(graph)
    outputs = {v.name for v in graph.output}
    living = {v.name for v in graph.input} - {t.name for t in graph.initializer}
    found = []
    for node in graph.node:
        read = dict.fromkeys((*node.input, *sorted(captured(node))))
        inputs = tuple(name for name in read if name in living)
        if not inputs:
            continue
        living |= set(node.output)
        for name in filter(None, node.output):
            info = infos.get(name)
            kind = dtype_name(info.type.tensor_type.elem_type) if info else ""
            size = _row_bytes(info) if info else 4
            found.append(
                ValueUse(name, kind, node.op_type, node.name, inputs, size, name in outputs)
            )
    return tuple(found)


def tap(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy with *names* among its outputs, behind its own.

    Args:
        model: A pivot with its weights in memory.
        names: Values of the outermost graph.

    Raises:
        ConversionError: LPT-CONV-204, there is no such value.
    """
    copy = _copy(model)
    _require(copy.graph, names)
    infos = _infos(copy.graph)
    present = {v.name for v in copy.graph.output}
    copy.graph.output.extend(_info(infos, n) for n in names if n not in present)
    return copy


def cut(model: ModelProto, names: Collection[str], cuts: Collection[str]) -> ModelProto:
    """Return the operators that yield *names*, each with inputs of its own.

    Args:
        model: A pivot with its weights in memory.
        names: The outputs of the result.
        cuts: Values whose readers read the input ``NAME/fed`` instead.

    Returns:
        The part of the graph that *names* need, with those of its inputs that are still read.

    Raises:
        ConversionError: LPT-CONV-204, there is no such value.
    """
    copy = _copy(model)
    graph = copy.graph
    _require(graph, (*names, *cuts))
    infos = _infos(graph)
    _read_fed(graph, set(cuts))
    replace_items(graph.output, [_info(infos, name) for name in names])
    needed = set(names)
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | captured(node)
    replace_items(graph.node, kept[::-1])
    inputs = [v for v in graph.input if v.name in needed]
    inputs += [_fed(infos, name) for name in cuts if f"{name}{FED}" in needed]
    replace_items(graph.input, inputs)
    replace_items(graph.initializer, [t for t in graph.initializer if t.name in needed])
    made = names_in(copy)
    replace_items(graph.value_info, [v for v in graph.value_info if v.name in made])
    return copy


def names_in(model: ModelProto) -> set[str]:
    """Return the names of all inputs, weights and values of the outermost graph."""
    graph = model.graph
    names = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    return names | {name for node in graph.node for name in node.output if name}


def _read_fed(graph: GraphProto, cuts: set[str]) -> None:
    """Let everything that reads a value read what is fed for it; nested graphs, too."""
    for inner in walk_graphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name in cuts:
                    node.input[index] = f"{name}{FED}"
        if inner is not graph:
            for value in inner.output:  # a nested graph may return an outer value
                if value.name in cuts:
                    value.name = f"{value.name}{FED}"


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _infos(graph: GraphProto) -> dict[str, ValueInfoProto]:
    return {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}


def _info(infos: Mapping[str, ValueInfoProto], name: str) -> ValueInfoProto:
    info = infos.get(name)
    if info is None:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return ValueInfoProto.FromString(info.SerializeToString())


def _fed(infos: Mapping[str, ValueInfoProto], name: str) -> ValueInfoProto:
    """Describe the input that stands for a value; lengths that are not fixed stay open.

    Symbols are dropped: shape inference gives one name to lengths that only happen to be equal.
    """
    info = _info(infos, name)
    info.name = f"{name}{FED}"
    for dim in info.type.tensor_type.shape.dim:
        if dim.WhichOneof("value") == "dim_param":
            dim.Clear()
    return info


def _row_bytes(info: ValueInfoProto) -> int:
    dims = info.type.tensor_type.shape.dim
    known = [d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in dims]
    if known and known[0] is None:
        known = known[1:]
    return 4 * int(np.prod([_UNKNOWN_DIM if d is None else d for d in known], dtype=np.int64))


def _require(graph: GraphProto, names: Collection[str]) -> None:
    there = {name for node in graph.node for name in node.output}
    for name in names:
        if name not in there:
            raise ConversionError(
                "LPT-CONV-204",
                f"The pivot has no value {name!r} that an operator yields",
                remedy="Name the first output of an operator; nested graphs are not looked into.",
                details={"value": name},
            )


__all__ = ["FED", "cut", "names_in", "tap", "values_of"]
