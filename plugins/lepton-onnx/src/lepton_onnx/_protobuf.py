"""Walks over ONNX protobufs, and the two or three facts about dtypes that all modules need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    numpy_helper,
)

from lepton_core.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DOMAINS = ("", "ai.onnx")
"""Two spellings of ONNX's own operator domain."""

_SUB_BYTE = {TensorProto.UINT4: 2, TensorProto.INT4: 2, TensorProto.FLOAT4E2M1: 2}


def dtype_name(elem_type: int) -> str:
    """Return the NumPy name of an ONNX element type (``"float32"``; ``"string"``; ``"int4"``).

    Types that NumPy lacks keep ONNX's name in lower case (``"bfloat16"``, ``"float8e4m3fn"``).
    """
    names: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    if elem_type in names:
        return names[elem_type]
    try:
        return str(TensorProto.DataType.Name(elem_type)).lower()
    except ValueError:
        return f"unknown{elem_type}"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that stand in a node's attributes (``If``, ``Loop``, ``Scan``)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def walk_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield *graph* and every graph nested in its nodes, outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk_graphs(inner)


def walk_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node: of the graph, of nested graphs, and of local functions."""
    for graph in walk_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for inner in subgraphs(node):
                for graph in walk_graphs(inner):
                    yield from graph.node


def walk_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor: initializers, sparse ones, and tensors in attributes."""
    for graph in walk_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in walk_nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.TENSORS:
                yield from attribute.tensors
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices


def elements(tensor: TensorProto) -> int:
    """Return how many values a tensor holds."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def storage_bytes(tensor: TensorProto) -> int:
    """Return the size in bytes that a tensor's values take as raw data (strings count 0)."""
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    count = elements(tensor)
    if tensor.data_type in _SUB_BYTE:
        return (count + 1) // 2
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        return len(tensor.raw_data)


def raw_bytes(tensor: TensorProto) -> bytes:
    """Return a tensor's values as little-endian raw data, whatever field they stand in."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def opset_of(model: ModelProto, domain: str = "") -> int:
    """Return the version at which a model imports *domain*, 0 if it does not."""
    wanted = DEFAULT_DOMAINS if domain in DEFAULT_DOMAINS else (domain,)
    return max((o.version for o in model.opset_import if o.domain in wanted), default=0)


def elem_type_of(kind: TypeProto) -> int:
    """Return the element type of a tensor type, 0 for anything else or unknown."""
    return kind.tensor_type.elem_type if kind.HasField("tensor_type") else 0


def spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """Return a graph input or output as a :class:`~lepton_core.types.TensorSpec`.

    A value without a known rank gets the shape ``()`` only if it is a scalar; an unknown rank is
    given as one unknown dimension per known axis, that is ``(None,)``.
    """
    kind = value.type
    if not kind.HasField("tensor_type"):
        which = kind.WhichOneof("value") or "unknown"
        return TensorSpec(value.name, which.removesuffix("_type"), ())
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype_name(tensor.elem_type), (None,))
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        dims.append(dim.dim_value if which == "dim_value" else (dim.dim_param or None))
    return TensorSpec(value.name, dtype_name(tensor.elem_type), tuple(dims))
