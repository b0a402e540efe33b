"""Forms of operators that a runtime lacks or gets wrong, in forms that it has.

Each function changes a graph in place, and says whether it had to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lepton_onnx._cleanup import replace_items

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_SWAPPED = [1, 0, 2]
_BATCH_FIRST = [2, 0, 1, 3]
"""From ``(steps, directions, batch, size)`` to ``(batch, steps, directions, size)``."""


def put_time_first(model: ModelProto) -> bool:
    """Write recurrent layers of the layout 1 (batch first) as those of the layout 0 in Transposes.

    Args:
        model: The graph with its weights; it is changed.

    Returns:
        Whether there was such a layer.
    """
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        layout = [a for a in node.attribute if a.name == "layout"]
        if node.op_type not in ("LSTM", "GRU", "RNN") or not layout or layout[0].i != 1:
            nodes.append(node)
            continue
        node.attribute.remove(layout[0])
        place = node.name or next(name for name in node.output if name)
        for slot in (0, 5, 6):
            if slot < len(node.input) and node.input[slot]:
                given, node.input[slot] = node.input[slot], f"{place}/time_first_{slot}"
                nodes.append(_turned(given, node.input[slot], _SWAPPED))
        nodes.append(node)
        for slot, name in enumerate(node.output):
            if name:
                node.output[slot] = f"{place}/time_first_y{slot}"
                perm = _SWAPPED if slot else _BATCH_FIRST
                nodes.append(_turned(node.output[slot], name, perm))
    changed = len(nodes) != len(model.graph.node)
    if changed:
        replace_items(model.graph.node, nodes)
    return changed


def _turned(source: str, result: str, perm: list[int]) -> NodeProto:
    return helper.make_node("Transpose", [source], [result], name=f"{result}/turned", perm=perm)


def pad_with_zero(model: ModelProto) -> bool:
    """Write a Pad whose value is computed as one with zeros, which a Where replaces by the value.

    Args:
        model: The graph with its weights; it is changed.

    Returns:
        Whether there was such a Pad.
    """
    known = {t.name for t in model.graph.initializer}
    known |= {name for n in model.graph.node if n.op_type == "Constant" for name in n.output}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
        value = node.input[2] if node.op_type == "Pad" and len(node.input) > 2 else ""
        if not value or value in known or mode != b"constant":
            nodes.append(node)
            continue
        nodes += _filled(node, value)
    changed = len(nodes) != len(model.graph.node)
    if changed:
        replace_items(model.graph.node, nodes)
    return changed


def _filled(pad: NodeProto, value: str) -> list[NodeProto]:
    """Return a Pad with zeros, the same of ones that tell which zeros are new, and the choice."""
    (result,), place = pad.output, pad.name or pad.output[0]
    shape, ones, told, kept = (f"{place}/{part}" for part in ("shape", "ones", "told", "kept"))
    pad.input[2], pad.output[0] = "", f"{place}/padded"
    one = numpy_helper.from_array(np.ones(1, np.int32))
    make = helper.make_node
    return [
        pad,
        make("Shape", [pad.input[0]], [shape], name=shape),
        make("ConstantOfShape", [shape], [ones], name=ones, value=one),
        make("Pad", [ones, *pad.input[1:]], [told], name=told),
        make("Cast", [told], [kept], name=kept, to=TensorProto.BOOL),
        make("Where", [kept, pad.output[0], value], [result], name=f"{place}/filled"),
    ]


def pass_one_on(model: ModelProto) -> bool:
    """Write a Max, Min, Mean or Sum of one input as an Identity.

    Args:
        model: The graph with its weights; it is changed.

    Returns:
        Whether there was such a node.
    """
    changed = False
    for node in model.graph.node:
        if node.op_type in ("Max", "Min", "Mean", "Sum") and len(node.input) == 1:
            node.op_type, changed = "Identity", True
    return changed


def lower_ranks(model: ModelProto, most: int) -> bool:
    """Write a Transpose between two Reshapes in fewer dimensions where axes stay side by side.

    Such as those by which windows or pixels are taken apart: the batch and the axis behind it often
    move together, and are one axis then.

    Args:
        model: The graph with its weights; it is changed.
        most: Dimensions that may stay.

    Returns:
        Whether a Transpose of more dimensions was changed.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in _shapes(model)}
    gone: set[str] = set()
    for node in model.graph.node:
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
        if node.op_type != "Transpose" or len(perm) <= most:
            continue
        before = _between_reshapes(model, node, constants)
        if before is None or len(constants[before.input[1]]) != len(perm):
            continue
        sizes, order = _joined(constants[before.input[1]].tolist(), perm)
        if len(order) == len(perm):
            continue
        fewer = numpy_helper.from_array(np.array(sizes, np.int64), f"{before.output[0]}/shape")
        model.graph.initializer.append(fewer)
        before.input[1] = fewer.name
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("perm", order))
        gone |= {node.input[0], node.output[0]}
    kept = [value for value in model.graph.value_info if value.name not in gone]
    replace_items(model.graph.value_info, kept)
    return bool(gone)


def _shapes(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the constants that Reshapes take shapes from."""
    named = {n.input[1] for n in model.graph.node if n.op_type == "Reshape"}
    return (t for t in model.graph.initializer if t.name in named)


def _between_reshapes(
    model: ModelProto, node: NodeProto, constants: Mapping[str, NDArray[np.int64]]
) -> NodeProto | None:
    """Return the Reshape that a node alone reads, if Reshapes alone read what it makes of it.

    All of them have constant shapes without a 0, which stands for the size that was there.
    """
    before = next((n for n in model.graph.node if node.input[0] in n.output), None)
    after = [n for n in model.graph.node if node.output[0] in n.input]
    readers = sum(node.input[0] in n.input for n in model.graph.node)
    results = {node.input[0], node.output[0]} & {value.name for value in model.graph.output}
    if before is None or not after or readers != 1 or results:
        return None
    plain = (
        n.op_type == "Reshape" and n.input[1] in constants and 0 not in constants[n.input[1]]
        for n in (before, *after)
    )
    return before if all(plain) else None


def _joined(sizes: list[int], perm: list[int]) -> tuple[list[int], list[int]]:
    """Return sizes and order of the axes, those that move side by side as one."""
    groups: list[list[int]] = []
    for axis in perm:
        if groups and groups[-1][-1] + 1 == axis:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    order = sorted(groups)
    fewer = [-1 if -1 in (own := [sizes[i] for i in group]) else math.prod(own) for group in order]
    return fewer, [order.index(group) for group in groups]


__all__ = ["lower_ranks", "pad_with_zero", "pass_one_on", "put_time_first"]
