"""Cleanups that provably keep every number: constants, identities, inference dropout, dead code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from lepton_onnx._parked import PARKED_ABOVE, Parked
from lepton_onnx._protobuf import DEFAULT_DOMAINS, opset_of, storage_bytes, subgraphs, walk_graphs

if TYPE_CHECKING:
    from collections.abc import Iterable

_DROPOUT_WITH_MODE = 12
"""First opset whose Dropout has a ``training_mode`` input; from 7 on it never drops otherwise."""


def clean(parked: Parked) -> dict[str, int]:
    """Clean the light model in place.

    Args:
        parked: The light model; constants that become initializers may be parked in it.

    Returns:
        How often each cleanup was applied (``constants``, ``identities``, ``dropouts``,
        ``nodes``, ``initializers``).
    """
    graph = parked.model.graph
    counts = {"constants": lift_constants(parked)}
    counts["dropouts"] = _forget_dropout(graph, opset_of(parked.model))
    counts["identities"] = _remove_identities(graph) - counts["dropouts"]
    counts["nodes"], counts["initializers"] = _remove_dead(graph)
    return {key: max(0, count) for key, count in counts.items()}


def _is(node: NodeProto, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in DEFAULT_DOMAINS


def lift_constants(parked: Parked) -> int:
    """Turn Constant nodes of the outermost graph into initializers; return how many."""
    graph = parked.model.graph
    outputs = {v.name for v in graph.output}
    kept, lifted = [], 0
    for node in graph.node:
        tensor = constant_value(node) if _is(node, "Constant") else None
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        large = storage_bytes(tensor) > PARKED_ABOVE
        graph.initializer.append(parked.park(tensor, tensor) if large else tensor)
        lifted += 1
    replace_items(graph.node, kept)
    return lifted


def constant_value(node: NodeProto) -> TensorProto | None:
    """Return the dense numeric tensor that a ``Constant`` node yields, ``None`` for other kinds."""
    if len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type != TensorProto.STRING:
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    import numpy as np

    scalars = {"value_float": ("f", np.float32), "value_int": ("i", np.int64)}
    lists = {"value_floats": ("floats", np.float32), "value_ints": ("ints", np.int64)}
    if attribute.name in scalars:
        name, dtype = scalars[attribute.name]
        return numpy_helper.from_array(np.array(getattr(attribute, name), dtype))
    if attribute.name in lists:
        name, dtype = lists[attribute.name]
        return numpy_helper.from_array(np.array(list(getattr(attribute, name)), dtype))
    return None


def _forget_dropout(graph: GraphProto, opset: int) -> int:
    """Turn every Dropout that passes its input through into an Identity."""
    if opset < 7:
        return 0
    used = {name for inner in walk_graphs(graph) for node in inner.node for name in node.input}
    used |= {v.name for v in graph.output}
    false = {
        t.name for t in graph.initializer if t.data_type == TensorProto.BOOL and not any_true(t)
    }
    count = 0
    for node in graph.node:
        if not _is(node, "Dropout") or any(name in used for name in node.output[1:]):
            continue
        mode = node.input[2] if len(node.input) > 2 else ""
        if opset >= _DROPOUT_WITH_MODE and mode and mode not in false:
            continue
        del node.input[1:], node.output[1:], node.attribute[:]
        node.op_type = "Identity"
        count += 1
    return count


def any_true(tensor: TensorProto) -> bool:
    """Return whether any value of a boolean tensor is true."""
    return bool(numpy_helper.to_array(tensor).any())


def _remove_identities(graph: GraphProto) -> int:
    """Remove Identity nodes of the outermost graph; those that name an output where they can."""
    inner_names = _names_defined_inside(graph)
    outputs = {v.name for v in graph.output}
    produced = {name for node in graph.node for name in node.output}
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if not _is(node, "Identity") or {node.input[0], node.output[0]} & inner_names:
            kept.append(node)
            continue
        source, result = _resolve(alias, node.input[0]), node.output[0]
        if result not in outputs:
            alias[result] = source
        elif source in produced and source not in outputs:
            alias[source] = result
        else:
            kept.append(node)
    removed = len(graph.node) - len(kept)
    replace_items(graph.node, kept)
    if alias:
        _rename(graph, alias)
    return removed


def _resolve(alias: dict[str, str], name: str) -> str:
    while name in alias:
        name = alias[name]
    return name


def _rename(graph: GraphProto, alias: dict[str, str]) -> None:
    for inner in walk_graphs(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name in alias:
                        names[index] = _resolve(alias, name)
        if inner is not graph:
            for value in inner.output:  # a nested graph may return an outer value
                value.name = _resolve(alias, value.name)


def _names_defined_inside(graph: GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in walk_graphs(graph):
        if inner is graph:
            continue
        names |= {v.name for v in inner.input} | {t.name for t in inner.initializer}
        names |= {name for node in inner.node for name in node.output}
    return names


def captured(node: NodeProto) -> set[str]:
    """Return the names that a node's nested graphs use from outside of them."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {s.values.name for s in graph.sparse_initializer}
        for inner in graph.node:
            names |= (set(inner.input) | captured(inner)) - own
            own |= set(inner.output)
        names |= {v.name for v in graph.output} - own
    names.discard("")
    return names


def _remove_dead(graph: GraphProto) -> tuple[int, int]:
    needed = {v.name for v in graph.output}
    kept = []
    for node in reversed(graph.node):
        dead = not any(name in needed for name in node.output if name)
        if dead and node.domain in DEFAULT_DOMAINS:
            continue
        kept.append(node)
        needed |= set(node.input) | captured(node)
    removed = len(graph.node) - len(kept)
    replace_items(graph.node, kept[::-1])
    alive = [t for t in graph.initializer if t.name in needed]
    sparse = [s for s in graph.sparse_initializer if s.values.name in needed]
    dropped = len(graph.initializer) - len(alive) + len(graph.sparse_initializer) - len(sparse)
    replace_items(graph.initializer, alive)
    replace_items(graph.sparse_initializer, sparse)
    return removed, dropped


def replace_items(field: object, items: Iterable[object]) -> None:
    """Set a repeated message field to *items*, which may be members of it."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)  # type: ignore[attr-defined]
        copies.append(copy)
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
