"""What joining, slicing and picking do to channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from lepton_torch._pruning._classes import NONE
from lepton_torch._pruning._rules_layers import broadcast
from lepton_torch._pruning._trace import Axes, Axis, Tracer, arguments, rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._pruning._classes import Cut


@rule("cat", "concat", "concatenate")
def cat(tracer: Tracer, node: Node) -> Axes:
    """Channels of all parts, one after the other."""
    parts = list(node.args[0])  # type: ignore[arg-type]
    given = arguments(node)
    rank = len(tracer.shape(node))
    parts = [p for p in parts if len(tracer.shape(p)) == rank]
    dim = int(given["dim"]) % rank
    found: list[Axis] = []
    for position in range(rank):
        axes = [tracer.axes(part)[position] for part in parts]
        if position == dim:
            found.append(_joined(axes, [tracer.shape(part)[dim] for part in parts]))
            continue
        made = axes[0]
        for other in axes[1:]:
            made = tracer.join(made, other)
        found.append(made)
    return tuple(found)


def _joined(axes: list[Axis], sizes: list[int]) -> Axis:
    if all(axis is None for axis in axes):
        return None
    filled = [
        np.full(n, NONE, np.int64) if axis is None else axis
        for axis, n in zip(axes, sizes, strict=True)
    ]
    return np.concatenate(filled)


@rule("stack")
def stack(tracer: Tracer, node: Node) -> Axes:
    """A new dimension; the others meet index by index."""
    found = list(broadcast(tracer, list(node.args[0])))  # type: ignore[arg-type]
    dim = int(arguments(node)["dim"]) % (len(found) + 1)
    found.insert(dim, None)
    return tuple(found)


@rule("slice")
def slice_(tracer: Tracer, node: Node) -> Axes:
    """Consecutive channels; both ends follow what is kept."""
    given = arguments(node)
    x, dim = given["self"], int(given["dim"])
    found = list(tracer.axes(x))
    axis, size = found[dim], tracer.shape(x)[dim]
    if axis is None:
        return tuple(found)
    start = 0 if given["start"] is None else given["start"]
    end = size if given["end"] is None else given["end"]
    if isinstance(start, Node) or isinstance(end, Node) or given["step"] != 1:
        tracer.pin(axis, f"{tracer.where()} picks from it")
        found[dim] = None
        return tuple(found)
    first, last, _ = slice(start, end).indices(size)
    found[dim] = _range(tracer, axis, first, last, size)
    return tuple(found)


def _range(tracer: Tracer, axis: Axis, first: int, last: int, size: int) -> Axis:
    if last - first < size:
        tracer.set_argument(2, "start", lambda cut: cut.count(axis[:first]))
        tracer.set_argument(3, "end", lambda cut: cut.count(axis[:last]))
    return axis[first:last]


def _parts(sizes: Sequence[int], axis: Axis) -> list[Axis]:
    ends = np.cumsum(sizes)
    return [
        None if axis is None else axis[end - n : end] for end, n in zip(ends, sizes, strict=True)
    ]


@rule("split", "chunk", "split_with_sizes", "split_copy", "unsafe_chunk", "unsafe_split")
def split(tracer: Tracer, node: Node) -> list[Axes]:
    """Parts of an axis, whose sizes follow what is kept."""
    x = node.args[0]
    dim = int(arguments(node).get("dim", 0)) % len(tracer.shape(x))  # type: ignore[arg-type]
    axis = tracer.axes(x)[dim]
    sizes = [shape[dim] for shape in tracer.structure.shapes[node]]
    parts = _parts(sizes, axis)

    def change(call: Node, cut: Cut) -> None:
        call.target = torch.ops.aten.split_with_sizes.default
        call.args = (call.args[0], [cut.count(part) for part in parts], dim)
        call.kwargs = {}

    if axis is not None:
        tracer.edit(change)
    axes = tracer.axes(x)
    return [(*axes[:dim], part, *axes[dim + 1 :]) for part in parts]


@rule("glu")
def glu(tracer: Tracer, node: Node) -> Axes:
    """The first half is gated by the second."""
    given = arguments(node)
    found = list(tracer.axes(given["self"]))
    dim = int(given["dim"])
    axis = found[dim]
    if axis is not None:
        half = len(axis) // 2
        found[dim] = tracer.join(axis[:half], axis[half:])
    return tuple(found)


def _picking(names: tuple[str, ...]) -> Callable[[Tracer, Node], Any]:
    """Return a rule for operators that pick along one dimension."""

    def pick(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
        given = arguments(node)
        x = given["self"]
        axes = tracer.axes(x)
        dim = int(given["dim"]) % len(axes)
        tracer.pin(axes[dim], f"{tracer.where()} picks from it")
        rest = (*axes[:dim], *axes[dim + 1 :])
        if names == ("unbind",):
            return [rest] * len(tracer.structure.shapes[node])
        return rest if names == ("select",) else (*axes[:dim], None, *axes[dim + 1 :])

    return pick


for _names in (("unbind",), ("select",), ("index_select",)):
    rule(*_names)(_picking(_names))


@rule("sym_size")
def sym_size(tracer: Tracer, node: Node) -> None:
    """A size that something computes with stays."""
    axes = tracer.env[node.all_input_nodes[0]]
    if isinstance(axes, tuple):
        tracer.pin(axes[int(node.args[1])], f"{tracer.where()} computes with its size")  # type: ignore[arg-type]


__all__: list[str] = []
