"""In which precision a session really computes, read from the graph that ONNX Runtime runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
from onnx import ModelProto, TensorProto

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, NodeProto

_LABELS: dict[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp64",
}
_INTEGER = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
_MOVES = {"Cast", "MemcpyFromHost", "MemcpyToHost", "QuantizeLinear", "DequantizeLinear"}
_MOVES |= {"ReorderInput", "ReorderOutput"}
_WIDTH = {"fp16": 0, "bf16": 1, "fp32": 2, "fp64": 3}


@dataclass(frozen=True, slots=True)
class Run:
    """A node of the graph that runs; its inner graphs have nodes of their own.

    Attributes:
        name: Its name, else that of its first output.
        operator: Its type, behind its domain unless that is ONNX's own.
        inputs: Names of values.
        outputs: Names of values.
        precision: What it computes in; empty where it only moves values.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str


@dataclass(frozen=True, slots=True)
class Execution:
    """What the optimized graph says.

    Attributes:
        nodes: Number of computing nodes per precision (``fp16``, ``fp32``, ``int8``, …).
        casts: Number of nodes that only change a dtype.
        runs: All nodes, in the order of the graph.
    """

    nodes: dict[str, int]
    casts: int
    runs: tuple[Run, ...] = ()

    def sentence(self, storage: str) -> str:
        """Say in words what precision most nodes run in, beside how weights are stored."""
        total = sum(self.nodes.values())
        if not total:
            return "none (no node computes with numbers)"
        main = max(self.nodes, key=lambda key: (self.nodes[key], key))
        text = f"{main} ({self.nodes[main]} of {total} nodes"
        rest = [f"{count} in {key}" for key, count in self.nodes.items() if key != main]
        if rest:
            text += f"; {', '.join(rest)}"
        if storage == "fp16" and main == "fp32":
            text += "; fp16 storage is cast"
        return f"{text})"


def execution_of(path: Path) -> Execution:
    """Count precisions in the optimized graph at *path*; its weights are not read.

    A node counts for the widest float dtype among its inputs and outputs, or as ``int8`` if it
    takes 8-bit or 4-bit tensors. Nodes that only move, reshape or cast data are not counted.
    """
    model = ModelProto.FromString(path.read_bytes())
    opset = max((o.version for o in model.opset_import if not o.domain), default=1)
    runs: list[Run] = []
    casts = _collect(model.graph, {}, runs, opset)
    counts = Counter(run.precision for run in runs if run.precision)
    return Execution(dict(sorted(counts.items())), casts, tuple(runs))


def _collect(graph: GraphProto, outer: dict[str, int], runs: list[Run], opset: int) -> int:
    types = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    types.update({t.name: t.data_type for t in graph.initializer})
    casts = 0
    for node in graph.node:
        _complete(node, types, opset)
        inner = [a.g for a in node.attribute if a.HasField("g")]
        for nested in inner:
            casts += _collect(nested, types, runs, opset)
        casts += node.op_type == "Cast"
        still = inner or node.op_type == "Cast" or node.op_type in _MOVES or _moves(node, opset)
        runs.append(
            Run(
                node.name or next(iter(node.output), ""),
                f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
                tuple(node.input),
                tuple(node.output),
                "" if still else _precision(node, types),
            )
        )
    return casts


@cache
def _schema(op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def _moves(node: NodeProto, opset: int) -> bool:
    """Tell whether an operator only moves data: then its definition takes strings too."""
    schema = _schema(node.op_type, node.domain, opset)
    if schema is None or not schema.inputs:
        return False
    first = schema.inputs[0].type_str
    kinds = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return "tensor(string)" in kinds.get(first, ())


def _complete(node: NodeProto, types: dict[str, int], opset: int) -> None:
    """Add the types of a node's outputs where the runtime did not write them down.

    They follow from the operator's definition: an output has the type of the inputs that share
    its type parameter. The runtime's own fused operators yield the dtype of their first float
    input.
    """
    schema = _schema(node.op_type, node.domain, opset)
    bound: dict[str, int] = {}
    for index, name in enumerate(node.input):
        if schema and schema.inputs and types.get(name):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            bound.setdefault(formal.type_str, types[name])
    first = next((types[n] for n in node.input if types.get(n) in _LABELS), 0)
    target = next((a.i for a in node.attribute if a.name in ("to", "dtype")), 0)
    for index, name in enumerate(node.output):
        if not name or types.get(name):
            continue
        if schema and schema.outputs:
            kind = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
            types[name] = target or bound.get(kind, 0) or _fixed(kind)
        else:
            types[name] = first


def _fixed(kind: str) -> int:
    names = {"tensor(float)": TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}
    names |= {"tensor(int64)": TensorProto.INT64, "tensor(bool)": TensorProto.BOOL}
    return names.get(kind, 0)


def _precision(node: NodeProto, types: dict[str, int]) -> str:
    kinds = {types.get(name, 0) for name in (*node.input, *node.output) if name}
    if kinds & _INTEGER:
        return "int8"
    floats = [_LABELS[kind] for kind in kinds if kind in _LABELS]
    return max(floats, key=lambda label: _WIDTH[label], default="")


def storage_of(weights: dict[str, int]) -> str:
    """Return the precision in which most weights are stored (``"fp16"``), from counts by dtype."""
    names = {"float16": "fp16", "float32": "fp32", "bfloat16": "bf16", "float64": "fp64"}
    names |= {"int8": "int8", "uint8": "int8", "int4": "int4", "uint4": "int4", "uint2": "int2"}
    totals: Counter[str] = Counter()
    for kind, count in weights.items():
        if kind in names:
            totals[names[kind]] += count
    return max(totals, key=lambda key: (totals[key], key), default="none")


def storage_facts(weights: dict[str, int]) -> dict[str, Any]:
    """Return the facts about storage that a session and an artifact record."""
    return {"storage_precision": storage_of(weights), "stored_values": dict(weights)}
