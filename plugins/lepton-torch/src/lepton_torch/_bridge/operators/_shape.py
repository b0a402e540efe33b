"""Shapes: asking for them, and changing them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import DTYPES, Known, sizes
from lepton_torch._bridge.operators._support import axes_of, positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Value


@operator("Shape")
def shape(node: Node, x: torch.Tensor) -> Known:
    """Return the sizes, symbolic where they depend on the inputs."""
    return sizes(list(x.shape)[node.get("start", 0) : node.get("end")])


@operator("Size")
def size(_node: Node, x: torch.Tensor) -> Known:
    """Return the number of elements."""
    return sizes([math.prod(x.shape)], ())


@operator("Reshape", known=(1,))
def reshape(node: Node, x: torch.Tensor, target: Known) -> torch.Tensor:
    """Change the shape; 0 keeps a dimension, -1 takes what is left."""
    wanted = target.ints()
    if not node.get("allowzero", 0):
        wanted = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(wanted)]
    return torch.reshape(x, wanted)


@operator("Flatten")
def flatten(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Make a matrix: the axes before ``axis``, and the others."""
    axis = positive(node.get("axis", 1), x.ndim)
    return torch.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@operator("Transpose")
def transpose(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Reorder the axes; by default the other way round."""
    return x.permute(*(node.get("perm") or range(x.ndim)[::-1])) if x.ndim else x


@operator("Squeeze", known=(1,))
def squeeze(node: Node, x: torch.Tensor, axes: Known | None = None) -> torch.Tensor:
    """Drop axes of length 1."""
    chosen = axes_of(node, axes)
    if chosen is None:
        return torch.squeeze(x)
    return torch.squeeze(x, chosen)


@operator("Unsqueeze", known=(1,))
def unsqueeze(node: Node, x: torch.Tensor, axes: Known | None = None) -> torch.Tensor:
    """Add axes of length 1, counted in the result."""
    chosen = axes_of(node, axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(positive(a, rank) for a in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Join along an axis."""
    return torch.cat(parts, dim=node.get("axis"))


@operator("Split", known=(1,))
def split(node: Node, x: torch.Tensor, lengths: Known | None = None) -> list[torch.Tensor]:
    """Cut along an axis: in the lengths given, or in parts as even as possible."""
    axis = node.get("axis", 0)
    given: Any = lengths.ints() if lengths is not None else node.get("split")
    if given is None:
        count = node.get("num_outputs") or len(node.outputs)
        each = -(-x.shape[axis] // count)
        given = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return list(torch.split(x, given, dim=axis))


@operator("Expand", known=(1,))
def expand(_node: Node, x: torch.Tensor, target: Known) -> torch.Tensor:
    """Broadcast both ways: the shape asked for may itself hold ones."""
    wanted = target.ints()
    rank = max(len(wanted), x.ndim)
    old = [1] * (rank - x.ndim) + list(x.shape)
    new = [1] * (rank - len(wanted)) + wanted
    result = [a if isinstance(b, int) and b == 1 else b for a, b in zip(old, new, strict=True)]
    return x.expand(result)


@operator("Tile", known=(1,))
def tile(_node: Node, x: torch.Tensor, repeats: Known) -> torch.Tensor:
    """Repeat along every axis."""
    return x.repeat(repeats.ints())


@operator("ConstantOfShape", known=(0,))
def constant_of_shape(node: Node, target: Known) -> torch.Tensor:
    """Fill a shape with one value."""
    value: Known | None = node.get("value")
    if value is None:
        return torch.zeros(target.ints(), dtype=torch.float32)
    return torch.full(target.ints(), value.item(), dtype=value.dtype)


@operator("Range", known=(0, 1, 2))
def arange(_node: Node, start: Known, limit: Known, delta: Known) -> torch.Tensor:
    """Count from start by delta, up to but without limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return ones on a diagonal of a matrix of the same shape."""
    dtype = DTYPES[node.get("dtype")] if node.get("dtype") else x.dtype
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    columns = torch.arange(x.shape[1]).unsqueeze(0)
    return (columns - rows == node.get("k", 0)).to(dtype)


@operator("Trilu", known=(1,))
def trilu(node: Node, x: torch.Tensor, k: Known | None = None) -> torch.Tensor:
    """Keep the upper or lower triangle of matrices."""
    diagonal = k.ints()[0] if k is not None else 0
    keep = torch.triu if node.get("upper", 1) else torch.tril
    return keep(x, diagonal)


@operator("Pad", known=(1, 3), either=(2,))
def pad(
    node: Node,
    x: torch.Tensor,
    pads: Known,
    value: Value | None = None,
    axes: Known | None = None,
) -> torch.Tensor:
    """Pad (or crop, where negative) by a constant, the edge, reflection or wrapping."""
    amounts = pads.ints()
    over = [positive(a, x.ndim) for a in (axes.ints() if axes is not None else range(x.ndim))]
    half = len(amounts) // 2
    begin = dict(zip(over, amounts[:half], strict=True))
    end = dict(zip(over, amounts[half:], strict=True))
    mode = node.get("mode", "constant")
    if mode == "constant":
        flat: list[int] = []
        for axis in reversed(range(x.ndim)):
            flat += [begin.get(axis, 0), end.get(axis, 0)]
        if not isinstance(value, torch.Tensor):
            fill = value.item() if value is not None else 0
            return torch.nn.functional.pad(x, flat, "constant", fill)
        inside = torch.nn.functional.pad(torch.ones_like(x, dtype=torch.bool), flat)
        return torch.where(inside, torch.nn.functional.pad(x, flat), value)
    for axis in over:
        x = _pad_axis(x, axis, begin[axis], end[axis], mode)
    return x


def _pad_axis(x: torch.Tensor, axis: int, before: int, after: int, mode: str) -> torch.Tensor:
    """Pad one axis by picking elements, which does what torch's padding does for any rank."""
    if isinstance(before, int) and isinstance(after, int) and before == after == 0:
        return x
    length = x.shape[axis]
    places = torch.arange(-before, length + after)
    if mode == "edge":
        places = places.clamp(0, length - 1)
    elif mode == "wrap":
        places = torch.remainder(places, length)
    else:
        period = max(2 * (length - 1), 1)
        places = torch.remainder(places, period)
        places = torch.where(places >= length, period - places, places)
    return x.index_select(axis, places)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Move channels into blocks of pixels, in five dimensions: some targets have no more."""
    block = node.get("blocksize")
    n, c, h, w = x.shape
    depth = c // block**2
    if node.get("mode", "DCR") == "DCR":
        x = x.reshape(n, block**2, depth, h * w).transpose(1, 2)
    parts = x.reshape(n * depth, block, block, h, w).permute(0, 3, 1, 4, 2)
    return parts.reshape(n, depth, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Move blocks of pixels into channels, in five dimensions as well."""
    block = node.get("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n * c, h // block, block, w // block, block).permute(0, 2, 4, 1, 3)
    moved = parts.reshape(n, c, block**2, (h // block) * (w // block)).transpose(1, 2)
    return moved.reshape(n, c * block**2, h // block, w // block)


@operator("CenterCropPad", known=(1,))
def center_crop_pad(node: Node, x: torch.Tensor, target: Known) -> torch.Tensor:
    """Crop or pad around the centre to the sizes asked for."""
    axes: Sequence[int] = node.get("axes") or range(x.ndim)
    for axis, wanted in zip(axes, target.ints(), strict=True):
        have = x.shape[axis]
        if have > wanted:
            x = x.narrow(axis, (have - wanted) // 2, wanted)
        elif have < wanted:
            before = (wanted - have) // 2
            flat = [0, 0] * (x.ndim - positive(axis, x.ndim) - 1)
            x = torch.nn.functional.pad(x, [*flat, before, wanted - have - before])
    return x


@operator("ReverseSequence")
def reverse_sequence(node: Node, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Turn the first steps of every sequence round, as many as its length."""
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    moved = x.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1]).unsqueeze(0)
    ends = lengths.unsqueeze(1)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    places = places.reshape(*places.shape, *[1] * (moved.ndim - 2)).expand(moved.shape)
    return torch.gather(moved, 1, places).movedim((0, 1), (batch, time))
