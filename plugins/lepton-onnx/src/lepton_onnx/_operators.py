"""Which operators a model uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import ModelProto

from lepton_core.types import OperatorUse
from lepton_onnx import _hints
from lepton_onnx._load import read
from lepton_onnx._parked import inline_functions, park
from lepton_onnx._protobuf import DEFAULT_DOMAINS, opset_of, walk_nodes

if TYPE_CHECKING:
    from onnx import NodeProto


def qualified_name(node: NodeProto) -> str:
    """Return ``"<domain>::<operator>"``; ONNX's own domain is written ``ai.onnx``."""
    return f"{node.domain if node.domain not in DEFAULT_DOMAINS else 'ai.onnx'}::{node.op_type}"


def inventory(model: ModelProto | str | Path) -> tuple[OperatorUse, ...]:
    """Return the operators that a model uses, nested graphs and functions included.

    Args:
        model: A model or the path of one; weights are not read.

    Returns:
        One entry per operator, most frequent first. ``convertible`` is ``None`` for an operator
        that ONNX does not define: the pivot keeps it, but only some runtimes can know it.

    Raises:
        SourceError: The model cannot be read.
    """
    path = None if isinstance(model, ModelProto) else Path(model)
    light = park(read(model), path).model
    light = inline_functions(light)
    counts: dict[str, int] = {}
    first: dict[str, NodeProto] = {}
    for node in walk_nodes(light):
        name = qualified_name(node)
        counts[name] = counts.get(name, 0) + 1
        first.setdefault(name, node)
    uses = [_use(name, counts[name], first[name], light) for name in counts]
    return tuple(sorted(uses, key=lambda use: (-use.count, use.name)))


def _use(name: str, count: int, node: NodeProto, model: ModelProto) -> OperatorUse:
    known = is_defined(node, opset_of(model, node.domain))
    return OperatorUse(
        name,
        count,
        where=place(node),
        convertible=True if known else None,
        note="" if known else "not an operator that ONNX defines",
    )


def place(node: NodeProto) -> str:
    """Return where a node stands: the user's source line if the exporter told, else its name."""
    trace = next((p.value for p in node.metadata_props if p.key.endswith("stack_trace")), "")
    name = node.name or next((n for n in node.output if n), "")
    return _hints.source_line(trace) or f"node {name!r}"


def is_defined(node: NodeProto, opset: int) -> bool:
    """Tell whether ONNX defines a node's operator at *opset* of its domain."""
    try:
        onnx.defs.get_schema(node.op_type, opset, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return False
    return True
