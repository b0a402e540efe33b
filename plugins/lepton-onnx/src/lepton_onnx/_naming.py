"""Stable names for values and nodes.

A good name is kept. A name that an exporter made up by counting is replaced by one derived from
what the value is: the user's module and operation where the exporter tells them, else the name of
the weight that the node uses, else the name of its data input. Such names do not depend on how
many other nodes there are, so they stay the same when a model is specialised to a shape and its
shape arithmetic disappears.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from lepton_onnx._cleanup import replace_items
from lepton_onnx._protobuf import dtype_name, opset_of, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, NodeProto

    from lepton_onnx._hints import Hint
    from lepton_onnx._parked import Parked

LONGEST = 160
"""Longest name that is kept or derived, in characters."""

_VALID = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:\-]*")
_COUNTED = re.compile(r"\d+|_?v(al)?_?\d+|_v_\d+|tmp_?\d+|onnx::\w+_\d+|(input|output)\.\d+")
_COUNTED_NODE = re.compile(r"(node_.*)?|n?\d+|[A-Za-z]+_?\d+")
_MERGED_ELEMENTS = 64
_INTEGRAL = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


def is_valid(name: str) -> bool:
    """Tell whether *name* has only characters that every tool we write for accepts."""
    return len(name) <= LONGEST and _VALID.fullmatch(name) is not None


def is_counted(name: str) -> bool:
    """Tell whether an exporter made *name* up by counting (``"val_12"``, ``"37"``)."""
    return _COUNTED.fullmatch(name) is not None


def is_stable(name: str) -> bool:
    """Tell whether a value may keep *name*: valid and not counted."""
    return is_valid(name) and not is_counted(name)


def sanitized(name: str) -> str:
    """Replace what is not valid in *name*; a name that is too long is cut and gets a digest."""
    clean = re.sub(r"[^A-Za-z0-9_./:\-]", "_", name)
    if not re.match(r"[A-Za-z_/]", clean):
        clean = f"_{clean}"
    if len(clean) > LONGEST:
        clean = f"{clean[: LONGEST - 40]}_{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    return f"{clean}.v" if is_counted(clean) else clean


@dataclass
class _Namer:
    """Hands out unique names."""

    opset: int
    taken: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        base = sanitized(wanted)
        name, count = base, 0
        while name in self.taken or is_counted(name):
            count += 1
            name = f"{base}_{count}" if count < 10_000 else f"{base}.{count}"
        self.taken.add(name)
        return name

    def formal(self, node: NodeProto, index: int, output: bool) -> str:
        """Return the operator's own name of an input or output (``"B"``), or its number."""
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError:
            return str(index)
        formals = schema.outputs if output else schema.inputs
        if index < len(formals) - 1 or (
            formals
            and index == len(formals) - 1
            and formals[-1].option != onnx.defs.OpSchema.FormalParameterOption.Variadic
        ):
            return str(formals[index].name)
        return str(index)


def assign_names(parked: Parked, hints: dict[str, Hint]) -> dict[str, str]:
    """Give every value and node of a light model a stable, unique name, in place.

    Args:
        parked: The light model.
        hints: What the exporter told, by the name of a node's first output.

    Returns:
        Old to new name of every value of the outermost graph.
    """
    graph = parked.model.graph
    namer = _Namer(opset_of(parked.model))
    fixed = [v.name for v in (*graph.input, *graph.output)]
    namer.taken.update(fixed)
    names = dict.fromkeys(fixed)
    mapping = {name: name for name in names}
    mapping[""] = ""
    keep = [n for n in _defined(graph, hints) if n not in mapping and is_stable(n)]
    for name in keep:
        mapping[name] = name
        namer.taken.add(name)
    _name_constants(parked, graph, namer, mapping)
    weights = _trained(graph)
    for node in graph.node:
        _name_outputs(node, namer, mapping, weights, hints.get(node.output[0]))
    _name_weights(graph, namer, mapping)
    _apply(graph, mapping, namer, hints)
    order_initializers(graph)
    return mapping


def _trained(graph: GraphProto) -> set[str]:
    """Return the weights whose names say where a node belongs: shapes and scalars do not."""
    integral = (*_INTEGRAL, TensorProto.STRING)
    return {t.name for t in graph.initializer if t.data_type not in integral and len(t.dims)}


def _defined(graph: GraphProto, hints: dict[str, Hint]) -> Iterator[str]:
    """Yield names that may be kept; a hint is better than the exporter's own name."""
    for tensor in graph.initializer:
        yield tensor.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        hint = hints.get(node.output[0]) if node.output else None
        if hint is None or not hint.operation:
            yield from node.output


def _name_constants(
    parked: Parked, graph: GraphProto, namer: _Namer, mapping: dict[str, str]
) -> None:
    """Name scalars and small shapes by their contents, so that equal ones become one."""
    for tensor in graph.initializer:
        if tensor.name in mapping or parked.values(tensor) is not None:
            continue
        size = 1
        for dim in tensor.dims:
            size *= dim
        integral = tensor.data_type in _INTEGRAL
        if size > (_MERGED_ELEMENTS if integral else 1) or tensor.data_type == TensorProto.STRING:
            continue
        content = hashlib.sha256(b"".join(parked.chunks(tensor)))
        content.update(repr((tensor.data_type, list(tensor.dims))).encode())
        name = f"const_{dtype_name(tensor.data_type)}_{content.hexdigest()[:10]}"
        mapping[tensor.name] = name
        namer.taken.add(name)


def _name_outputs(
    node: NodeProto,
    namer: _Namer,
    mapping: dict[str, str],
    weights: set[str],
    hint: Hint | None,
) -> None:
    base = ""
    for index, old in enumerate(node.output):
        if not old or old in mapping:
            continue
        base = base or _base_name(node, mapping, weights, hint)
        tail = f".{namer.formal(node, index, output=True)}" if index else ""
        wanted = old if not is_counted(old) and hint is None else base + tail
        mapping[old] = namer.unique(wanted)


def _base_name(
    node: NodeProto, mapping: dict[str, str], weights: set[str], hint: Hint | None
) -> str:
    if hint and hint.operation:
        operation = hint.operation
        if operation == "getitem":
            operation = node.op_type
        base = f"{hint.module}/{operation}" if hint.module else operation
        return base if hint.result or operation == node.op_type else f"{base}/{node.op_type}"
    for name in node.input:
        if name in weights and is_stable(name) and not name.startswith("const_"):
            return f"{re.sub(r'[./][A-Za-z0-9_]*$', '', name)}/{node.op_type}"
    anchor = next((mapping.get(name, "") for name in node.input if name), "")
    base = f"{anchor}/{node.op_type}" if anchor else node.op_type
    if len(base) > LONGEST // 2:
        return f"{node.op_type}_{hashlib.sha256(base.encode()).hexdigest()[:10]}"
    return base


def _name_weights(graph: GraphProto, namer: _Namer, mapping: dict[str, str]) -> None:
    """Name the weights that are left after the node and input that uses them first."""
    left = {t.name for t in graph.initializer if t.name not in mapping}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in left and name not in mapping:
                formal = namer.formal(node, index, output=False)
                good = not is_counted(name) and name
                mapping[name] = namer.unique(good or f"{mapping[node.output[0]]}.{formal}")
    for tensor in graph.initializer:
        if tensor.name not in mapping:
            mapping[tensor.name] = namer.unique(tensor.name)


def _apply(
    graph: GraphProto, mapping: dict[str, str], namer: _Namer, hints: dict[str, Hint]
) -> None:
    """Write the names into *graph*; nested graphs are named on the way."""
    node_names: set[str] = set()
    for tensor in graph.initializer:
        tensor.name = mapping[tensor.name]
    for sparse in graph.sparse_initializer:
        sparse.values.name = mapping.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        hint = hints.get(node.output[0]) if node.output else None
        node.input[:] = [mapping.get(name, name) for name in node.input]
        node.output[:] = [mapping.get(name, name) for name in node.output]
        node.name = _node_name(node, node_names, exporter_counted=hint is not None)
        node_names.add(node.name)
        for inner in subgraphs(node):
            _name_inner(inner, mapping, namer)
    infos = [v for v in graph.value_info if v.name in mapping]
    for info in infos:
        info.name = mapping[info.name]
    replace_items(graph.value_info, infos)


def _node_name(node: NodeProto, taken: set[str], *, exporter_counted: bool) -> str:
    """Keep a node's own name if it means something, else name it after its first output."""
    own = node.name
    counted = own == node.op_type or _COUNTED_NODE.fullmatch(own) or exporter_counted
    meaningful = is_valid(own) and not counted
    name = own if meaningful else next((n for n in node.output if n), node.op_type)
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}:{count}"
    return candidate


def _name_inner(graph: GraphProto, outer: dict[str, str], namer: _Namer) -> None:
    """Name what a nested graph defines; what it takes from outside is renamed with it."""
    mapping = dict(outer)
    weights = _trained(graph)
    own = (*(v.name for v in graph.input), *(t.name for t in graph.initializer))
    for old in own:
        mapping[old] = namer.unique(old if not is_counted(old) else f"inner/{old}")
    for node in graph.node:
        for name in node.output:
            mapping.pop(name, None)
        mapping[""] = ""
        _name_outputs(node, namer, mapping, weights, None)
    for value in graph.input:
        value.name = mapping[value.name]
    for value in graph.output:
        value.name = mapping.get(value.name, value.name)
    _apply(graph, mapping, namer, {})


def order_initializers(graph: GraphProto) -> None:
    """Order weights by first use and keep one of each name: equal constants got the same one."""
    first: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        first.setdefault(tensor.name, tensor)
    order = {name: i for i, name in enumerate(_uses(graph))}
    ranked = sorted(first.values(), key=lambda t: (order.get(t.name, len(order)), t.name))
    replace_items(graph.initializer, ranked)


def _uses(graph: GraphProto) -> Iterator[str]:
    seen: dict[str, None] = {}

    def visit(inner: GraphProto) -> None:
        for node in inner.node:
            seen.update(dict.fromkeys(node.input))
            for nested in subgraphs(node):
                visit(nested)

    visit(graph)
    yield from seen
    yield from (v.name for v in graph.output)
