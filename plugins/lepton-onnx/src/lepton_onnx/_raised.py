"""What ONNX's version converter leaves undone where an operator has another meaning later on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from lepton_onnx._cleanup import constant_value, replace_items
from lepton_onnx._infer import infer
from lepton_onnx._protobuf import DEFAULT_DOMAINS, opset_of, walk_graphs, walk_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

_RESIZE, _HARDMAX, _GROUPS = 11, 13, 21
"""Opsets from which on Resize says how it finds its places (before: scaled from the first corner,
and rounded towards it), Hardmax works along one axis (before: over all axes from it on), and
GroupNormalization has a scale for each channel (before: for each group)."""


def repair(before: ModelProto, after: ModelProto) -> None:
    """Change *after*, made of *before* by ONNX's converter, so that it means the same.

    Raises:
        ValueError: The meaning cannot be kept; says which.
    """
    have, now = opset_of(before), opset_of(after)
    if have < _RESIZE <= now:
        _place_as_before(before, after)
    if have < _HARDMAX <= now:
        for graph in walk_graphs(after.graph):
            replace_items(graph.node, list(_hardmax_of_rows(graph)))
    if have < _GROUPS <= now:
        _scale_channels(before, after)


def _of(graph: GraphProto, kind: str) -> list[NodeProto]:
    return [n for n in graph.node if n.op_type == kind and n.domain in DEFAULT_DOMAINS]


def _place_as_before(before: ModelProto, after: ModelProto) -> None:
    rounding = {}
    constants = _constants(before)
    for node in walk_nodes(before):
        if node.op_type in ("Resize", "Upsample") and node.domain in DEFAULT_DOMAINS:
            enlarges = node.op_type == "Upsample"
            rounding[node.output[0]] = "floor" if enlarges else _rounding(node, constants)
    for graph in walk_graphs(after.graph):
        for node in _of(graph, "Resize"):
            modes = {a.name: a.s.decode() for a in node.attribute if a.name == "mode"}
            _set(node, "coordinate_transformation_mode", "asymmetric")
            if modes.get("mode", "nearest") == "nearest":
                found = rounding.get(node.output[0], "")
                if not found:
                    msg = f"the scales of Resize for {node.output[0]!r} tell not how it rounds"
                    raise ValueError(msg)
                _set(node, "nearest_mode", found)


def _constants(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the constants that may be scales of a Resize, by name."""
    found = {}
    wanted = {n.input[1] for n in walk_nodes(model) if n.op_type == "Resize" and len(n.input) > 1}
    for graph in walk_graphs(model.graph):
        found |= {t.name: t for t in graph.initializer if t.name in wanted}
        for node in _of(graph, "Constant"):
            value = constant_value(node) if node.output[0] in wanted else None
            found |= {node.output[0]: value} if value is not None else {}
    return {name: numpy_helper.to_array(tensor) for name, tensor in found.items()}


def _rounding(node: NodeProto, constants: Mapping[str, NDArray[np.float32]]) -> str:
    """Return how a Resize of opset 10 rounds: down where it enlarges, up where it makes smaller."""
    scales = constants.get(node.input[1])
    if scales is None or ((scales > 1).any() and (scales < 1).any()):
        return ""
    return "ceil" if (scales < 1).any() else "floor"


def _set(node: NodeProto, name: str, value: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    replace_items(node.attribute, [*kept, helper.make_attribute(name, value)])


def _hardmax_of_rows(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph, with each Hardmax over all axes from its own on."""
    for node in graph.node:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if node.op_type != "Hardmax" or node.domain not in DEFAULT_DOMAINS or axis == -1:
            yield node
            continue
        x, y = node.input[0], node.output[0]
        yield helper.make_node("Shape", [x], [f"{y}/sizes"], name=f"{y}/sizes")
        yield helper.make_node("Flatten", [x], [f"{y}/rows"], name=f"{y}/rows", axis=axis)
        yield helper.make_node("Hardmax", [f"{y}/rows"], [f"{y}/first"], name=node.name, axis=-1)
        yield helper.make_node("Reshape", [f"{y}/first", f"{y}/sizes"], [y], name=f"{y}/shaped")


def _scale_channels(before: ModelProto, after: ModelProto) -> None:
    graph = after.graph
    nodes = _of(graph, "GroupNormalization")
    _, *nested = walk_graphs(graph)
    if any(_of(inner, "GroupNormalization") for inner in nested):
        msg = "GroupNormalization in a branch has a scale for each group"
        raise ValueError(msg)
    if not nodes:
        return
    weights = {t.name: t for t in graph.initializer}
    known = infer(before).graph
    for node in nodes:
        groups = next(a.i for a in node.attribute if a.name == "num_groups")
        shape = next(
            (v.type.tensor_type.shape.dim for v in (*known.input, *known.value_info)
             if v.name == node.input[0]), (),
        )  # fmt: skip
        channels = shape[1].dim_value if len(shape) > 1 else 0
        if not channels or any(name not in weights for name in node.input[1:]):
            msg = f"GroupNormalization for {node.output[0]!r} has no constant scale for each group"
            raise ValueError(msg)
        for place in (1, 2):
            array = numpy_helper.to_array(weights[node.input[place]])
            wide = numpy_helper.from_array(np.repeat(array, channels // groups))
            wide.name = f"{node.input[place]}/{node.output[0]}"
            graph.initializer.append(wide)
            node.input[place] = wide.name


__all__ = ["repair"]
