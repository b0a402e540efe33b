"""Picking elements by index, and writing to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge.operators._support import positive

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Known


def wrapped(index: torch.Tensor, length: int) -> torch.Tensor:
    """Return indices as int64, with those below zero counted from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + length, index)


@operator("Gather")
def gather(node: Node, data: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick slices along an axis."""
    axis = positive(node.get("axis", 0), data.ndim)
    places = wrapped(index, data.shape[axis])
    if index.ndim == 1:
        return data.index_select(axis, places)
    if axis == 0 and data.ndim == 2 and index.ndim:
        return torch.nn.functional.embedding(places, data)
    picked = data.index_select(axis, places.reshape(-1))
    return picked.reshape([*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(node: Node, data: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick single elements along an axis."""
    axis = positive(node.get("axis", 0), data.ndim)
    return torch.gather(data, axis, wrapped(index, data.shape[axis]))


@operator("GatherND")
def gather_nd(node: Node, data: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick slices by tuples of indices."""
    batch = node.get("batch_dims", 0)
    depth = index.shape[-1]
    parts = [wrapped(index[..., i], data.shape[batch + i]) for i in range(depth)]
    leading = []
    for axis in range(batch):
        where = [1] * (index.ndim - 1)
        where[axis] = data.shape[axis]
        leading.append(torch.arange(data.shape[axis]).reshape(where))
    return data[(*leading, *parts)]


@operator("Slice", known=(1, 2, 3, 4))
def slice_axes(
    _node: Node,
    x: torch.Tensor,
    starts: Known,
    ends: Known,
    axes: Known | None = None,
    steps: Known | None = None,
) -> torch.Tensor:
    """Cut out a range along axes; backwards where the step is negative."""
    first, last = starts.ints(), ends.ints()
    along = axes.ints() if axes is not None else list(range(len(first)))
    by = steps.ints() if steps is not None else [1] * len(first)
    for axis, begin, end, step in zip(along, first, last, by, strict=True):
        x = _slice(x, positive(axis, x.ndim), begin, end, step)
    return x


def _slice(x: torch.Tensor, axis: int, begin: int, end: int, step: int) -> torch.Tensor:
    if step > 0:
        chosen = [slice(None)] * x.ndim
        chosen[axis] = slice(begin, end if _inside(end) else None, step)
        return x[tuple(chosen)]
    length = x.shape[axis]
    begin = length - 1 if begin >= length else (begin + length if begin < 0 else begin)
    end = -1 if end < -length else (end + length if end < 0 else end)
    return x.index_select(axis, torch.arange(begin, end, step))


def _inside(end: int) -> bool:
    """Tell whether the end is one, and not one of the numbers that stand for infinity."""
    return isinstance(end, torch.SymInt) or end < 2**31 - 1


def _scatter(
    data: torch.Tensor, axis: int, index: torch.Tensor, updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    if reduction == "none":
        return torch.scatter(data, axis, index, updates)
    name = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return torch.scatter_reduce(data, axis, index, updates, reduce=name)


@operator("ScatterElements", "Scatter")
def scatter_elements(
    node: Node, data: torch.Tensor, index: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    """Write single elements along an axis."""
    axis = positive(node.get("axis", 0), data.ndim)
    places = wrapped(index, data.shape[axis])
    return _scatter(data, axis, places, updates, node.get("reduction", "none"))


@operator("ScatterND")
def scatter_nd(
    node: Node, data: torch.Tensor, index: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    """Write slices by tuples of indices."""
    depth = index.shape[-1]
    parts = [wrapped(index[..., i], data.shape[i]) for i in range(depth)]
    reduction = node.get("reduction", "none")
    if reduction in ("none", "add"):
        return torch.index_put(data, parts, updates, accumulate=reduction == "add")
    flat = torch.zeros_like(parts[0])
    for part, length in zip(parts, data.shape[:depth], strict=True):
        flat = flat * length + part
    rows = data.reshape(-1, *data.shape[depth:]) if depth < data.ndim else data.reshape(-1)
    written = updates.reshape(-1, *data.shape[depth:])
    places = flat.reshape(-1, *[1] * (rows.ndim - 1)).expand(written.shape)
    return _scatter(rows, 0, places, written, reduction).reshape(data.shape)


@operator("OneHot", known=(1,))
def one_hot(node: Node, index: torch.Tensor, depth: Known, values: torch.Tensor) -> torch.Tensor:
    """Write one value at the index along a new axis, and another one elsewhere."""
    count = depth.ints()[0]
    axis = positive(node.get("axis", -1), index.ndim + 1)
    places = torch.remainder(index.to(torch.int64), count).unsqueeze(axis)
    inside = (index >= -count) & (index < count)
    shape = [1] * (index.ndim + 1)
    shape[axis] = count
    hit = (places == torch.arange(count).reshape(shape)) & inside.unsqueeze(axis)
    return torch.where(hit, values[1], values[0])


@operator("NonZero")
def non_zero(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the places of elements that are not zero, one column each."""
    return torch.nonzero(x).T


@operator("Compress")
def compress(node: Node, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Keep the slices for which the condition holds."""
    axis = node.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    places = torch.nonzero(condition).reshape(-1)
    return x.index_select(axis, places)


@operator("TensorScatter")
def tensor_scatter(
    node: Node, cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Write new steps into a cache of keys or values, from an index per row on."""
    axis = positive(node.get("axis", -2), cache.ndim)
    steps = torch.arange(update.shape[axis])
    shape = [1] * cache.ndim
    shape[axis] = update.shape[axis]
    places = steps.reshape(shape)
    if start is not None:
        places = places + start.to(torch.int64).reshape(-1, *[1] * (cache.ndim - 1))
    if node.get("mode", "linear") == "circular":
        places = torch.remainder(places, cache.shape[axis])
    return torch.scatter(cache, axis, places.expand(update.shape), update)
