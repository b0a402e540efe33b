"""What reshaping and elementwise operators do to channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from lepton_torch._pruning._reshape import regions
from lepton_torch._pruning._rules_layers import broadcast
from lepton_torch._pruning._trace import Axes, Axis, Tracer, arguments, nothing, rule, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_torch._pruning._classes import Cut


@rule(  # most are elementwise, though torch does not say so of all of them
    "pointwise", "expand_as", "masked_fill", "where", "hardswish", "hardsigmoid", "softplus",
    "elu", "celu", "selu", "mish", "silu", "gelu", "relu", "relu6", "leaky_relu", "hardtanh",
    "hardshrink", "softshrink", "log_sigmoid", "threshold", "clamp_min", "clamp_max", "clamp",
    "add", "sub", "mul", "div", "pow", "lerp", "addcmul", "addcdiv", "hardswish_", "hardsigmoid_",
    "elu_", "mish_",
)  # fmt: skip
def pointwise(tracer: Tracer, node: Node) -> Axes:
    """Every index meets those of the other operands."""
    operands = [n for n in node.all_input_nodes if isinstance(tracer.env.get(n), tuple)]
    if not operands:
        return nothing(tracer.structure.shapes[node])  # type: ignore[no-any-return]
    return broadcast(tracer, operands)


@rule(
    "dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "_to_copy",
    "detach", "alias", "lift_fresh_copy", "zeros_like", "ones_like", "full_like", "type_as",
    "relu_", "silu_", "hardtanh_", "leaky_relu_", "native_dropout", "dropout_",
)  # fmt: skip
def same(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Nothing happens to axes."""
    axes = tracer.axes(node.args[0])
    held = tracer.structure.shapes[node]
    return [axes, axes] if held and isinstance(held[0], tuple) else axes


@rule("new_zeros", "new_ones", "new_full", "new_empty", "arange", "zeros", "ones", "full", "empty")
def fresh(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Values are made, and none are read."""
    return nothing(tracer.structure.shapes[node])


def _dims(given: Any, rank: int) -> list[int]:  # noqa: ANN401 - an argument
    if given is None or given == []:
        return list(range(rank))
    many = given if isinstance(given, (list, tuple)) else [given]
    return [int(dim) % rank for dim in many]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "flip", "roll")
def along(tracer: Tracer, node: Node) -> Axes:
    """What is worked on together along a dimension stays."""
    given = arguments(node)
    x = next(iter(given.values()))
    found = list(tracer.axes(x))
    for dim in _dims(given.get("dim", given.get("dims")), len(found)):
        tracer.pin(found[dim], f"{tracer.where()} works on all of it together")
        found[dim] = None
    return tuple(found)


@rule("tril", "triu")
def triangle(tracer: Tracer, node: Node) -> Axes:
    """The last two dimensions are positions."""
    found = tracer.axes(node.args[0])
    for axis in found[-2:]:
        tracer.pin(axis, f"{tracer.where()} works on all of it together")
    return (*found[:-2], None, None)


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "argmax", "argmin", "any",
    "all", "logsumexp", "norm", "linalg_vector_norm",
)  # fmt: skip
def reduction(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """What is reduced stays; other dimensions go through."""
    given = arguments(node)
    if isinstance(given.get("other"), Node):
        return pointwise(tracer, node)
    x = next(iter(given.values()))
    axes = tracer.axes(x)
    dims = _dims(given.get("dim"), len(axes))
    for dim in dims:
        tracer.pin(axes[dim], f"{tracer.where()} reduces it")
    if given.get("keepdim"):
        found: Axes = tuple(None if i in dims else a for i, a in enumerate(axes))
    else:
        found = tuple(a for i, a in enumerate(axes) if i not in dims)
    held = tracer.structure.shapes[node]
    return [found] * len(held) if held and isinstance(held[0], tuple) else found


_POOLS = {
    f"{kind}_pool{rank}d": rank
    for kind in ("max", "avg", "adaptive_avg", "_adaptive_avg", "adaptive_max", "lp")
    for rank in (1, 2, 3)
} | {f"max_pool{rank}d_with_indices": rank for rank in (1, 2, 3)}


@rule(*_POOLS)
def pool(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Windows slide over the last dimensions."""
    rank = _POOLS[short(node)]
    axes = tracer.axes(node.args[0])
    for axis in axes[-rank:]:
        tracer.pin(axis, f"{tracer.where()} slides over it")
    found = (*axes[:-rank], *[None] * rank)
    held = tracer.structure.shapes[node]
    return [found] * len(held) if held and isinstance(held[0], tuple) else found


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "grid_sampler", "grid_sampler_2d", "grid_sampler_3d",
)  # fmt: skip
def resize(tracer: Tracer, node: Node) -> Axes:
    """Batch and channels go through, places are made anew."""
    for source in node.all_input_nodes:
        for axis in tracer.axes(source)[2:] if isinstance(tracer.env[source], tuple) else ():
            tracer.pin(axis, f"{tracer.where()} resizes it")
    axes = tracer.axes(node.args[0])
    return (*axes[:2], *[None for _ in tracer.shape(node)[2:]])


@rule(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def pad(tracer: Tracer, node: Node) -> Axes:
    """What gets longer stays."""
    x = node.args[0]
    found = []
    for axis, before, after in zip(
        tracer.axes(x), tracer.shape(x), tracer.shape(node), strict=True  # type: ignore[arg-type]
    ):  # fmt: skip
        if before != after:
            tracer.pin(axis, f"{tracer.where()} makes it longer")
        found.append(axis if before == after else None)
    return tuple(found)


# --- order and copies -------------------------------------------------------------------------


@rule("permute")
def permute(tracer: Tracer, node: Node) -> Axes:
    """Axes change places."""
    axes = tracer.axes(node.args[0])
    return tuple(axes[dim] for dim in node.args[1])  # type: ignore[union-attr,index]


@rule("transpose", "swapaxes", "swapdims")
def transpose(tracer: Tracer, node: Node) -> Axes:
    """Two axes change places."""
    found = list(tracer.axes(node.args[0]))
    a, b = (int(dim) % len(found) for dim in node.args[1:3])  # type: ignore[arg-type]
    found[a], found[b] = found[b], found[a]
    return tuple(found)


@rule("t", "numpy_T", "mT", "matrix_H", "adjoint")
def turned(tracer: Tracer, node: Node) -> Axes:
    """The last two axes of a matrix change places."""
    axes = tracer.axes(node.args[0])
    return (*axes[:-2], *reversed(axes[-2:]))


@rule("movedim", "moveaxis")
def movedim(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Axes move."""
    axes = tracer.axes(node.args[0])
    order = torch.movedim(torch.zeros(tuple(range(1, len(axes) + 1))), *node.args[1:3])  # type: ignore[arg-type]
    return tuple(axes[size - 1] for size in order.shape)


@rule("expand")
def expand(tracer: Tracer, node: Node) -> Axes:
    """Sizes of one are repeated; others go through."""
    x, sizes = node.args[:2]
    axes, shape = tracer.axes(x), tracer.shape(x)  # type: ignore[arg-type]
    new = len(tracer.shape(node)) - len(shape)
    found: list[Axis] = [None] * new
    for axis, before, after in zip(axes, shape, tracer.shape(node)[new:], strict=True):
        found.append(axis if before == after else None)
    _set_sizes(tracer, 1, "size", list(sizes), found)  # type: ignore[arg-type]
    return tuple(found)


def _set_sizes(
    tracer: Tracer, position: int, name: str, sizes: Sequence[Any], axes: Sequence[Axis]
) -> None:
    """Let the sizes of a call follow what is kept.

    A size that is computed (a batch times heads) is left for the call to infer; only one can be.
    """
    open_ends = [n for n, size in enumerate(sizes) if size == -1]
    for number, (size, axis) in enumerate(zip(sizes, axes, strict=True)):
        if isinstance(size, Node) and axis is not None:
            if open_ends or short(tracer.node) == "expand":
                tracer.pin(axis, f"{tracer.where()} computes its size")
            else:
                open_ends.append(number)

    def value(current: Sequence[Any], cut: Cut) -> list[Any]:
        made = [
            size if axis is None or size == -1 else cut.count(axis)
            for size, axis in zip(current, axes, strict=True)
        ]
        for number in open_ends:
            made[number] = -1
        return made

    if any(axis is not None for axis in axes):
        tracer.change_argument(position, name, value)


@rule("repeat", "tile")
def repeat(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Axes are repeated as a whole."""
    x, times = node.args[:2]
    if any(isinstance(n, Node) for n in times):  # type: ignore[union-attr]
        return NotImplemented
    new = len(tracer.shape(node)) - len(tracer.shape(x))  # type: ignore[arg-type]
    counts = list(times)[-len(tracer.shape(x)) :]  # type: ignore[arg-type]
    axes = [
        None if axis is None else np.tile(axis, count)
        for axis, count in zip(tracer.axes(x), counts, strict=True)
    ]
    return (*[None] * new, *axes)


@rule("repeat_interleave")
def repeat_interleave(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Every index of an axis is repeated."""
    given = arguments(node)
    x, dim, count = given.get("self"), given.get("dim"), given["repeats"]
    if x is None or dim is None or not isinstance(count, int):
        return NotImplemented
    found = list(tracer.axes(x))
    axis = found[dim]
    found[dim] = None if axis is None else np.repeat(axis, count)
    return tuple(found)


# --- shapes -----------------------------------------------------------------------------------


@rule("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias")
def view(tracer: Tracer, node: Node) -> Axes:
    """Axes are merged and split; sizes follow what is kept."""
    axes = _reshaped(tracer, node)
    _set_sizes(tracer, 1, "size", list(node.args[1]), axes)  # type: ignore[arg-type]
    return axes


@rule("flatten", "squeeze", "unsqueeze")
def flatten(tracer: Tracer, node: Node) -> Axes:
    """Axes are merged, or ones come and go."""
    return _reshaped(tracer, node)


@rule("unflatten")
def unflatten(tracer: Tracer, node: Node) -> Axes:
    """An axis is split; sizes follow what is kept."""
    dim, sizes = int(node.args[1]), list(node.args[2])  # type: ignore[arg-type]
    axes = _reshaped(tracer, node)
    dim %= len(axes) - len(sizes) + 1
    _set_sizes(tracer, 2, "sizes", sizes, axes[dim : dim + len(sizes)])
    return axes


def _reshaped(tracer: Tracer, node: Node) -> Axes:
    """Return the axes after a change of shape, region by region."""
    x = node.args[0]
    before, after = tracer.shape(x), tracer.shape(node)  # type: ignore[arg-type]
    axes, found = tracer.axes(x), [None] * len(after)
    for old, new in regions(before, after):
        _region(tracer, [(axes[i], before[i]) for i in old], [(i, after[i]) for i in new], found)
    return tuple(found)


def _region(
    tracer: Tracer, old: list[tuple[Axis, int]], new: list[tuple[int, int]], found: list[Axis]
) -> None:
    """Hand channels through one region, which is merged and then split."""
    holding = [n for n, (axis, size) in enumerate(old) if axis is not None and size > 1]
    for number in holding[1:]:
        tracer.pin(old[number][0], f"{tracer.where()} mixes it with other channels")
    if not holding:
        return
    sizes = [size for _, size in old]
    shape = [1] * len(old)
    shape[holding[0]] = sizes[holding[0]]
    flat = np.broadcast_to(np.asarray(old[holding[0]][0]).reshape(shape), sizes).reshape(-1)
    wide = [(place, size) for place, size in new if size > 1]
    if len(wide) == 1:
        found[wide[0][0]] = flat
        return
    box = tracer.classes.find(flat).reshape([size for _, size in wide])
    tables = [np.moveaxis(box, n, 0).reshape(wide[n][1], -1) for n in range(len(wide))]
    given = [n for n, table in enumerate(tables) if (table == table[:, :1]).all()]
    order = list(range(len(wide)))[:: -1 if _is_shuffle(tracer) else 1]
    taken = given[0] if given else order[tracer.choose(len(wide))]
    joined = tracer.classes.join_rows(tables[taken])
    if not given:
        tracer.chosen(joined)
    found[wide[taken][0]] = joined


def _is_shuffle(tracer: Tracer) -> bool:
    """Tell whether the running call splits channels, turns them and joins them again."""
    node = tracer.node
    source = node.args[0]
    for wanted in (("transpose", "permute", "swapaxes"), ("view", "reshape", "_unsafe_view")):
        users = [user for user in node.users if user.op == "call_function"]
        while len(users) == 1 and short(users[0]) in ("contiguous", "clone"):
            users = list(users[0].users)
        if len(users) != 1 or short(users[0]) not in wanted:
            return False
        node = users[0]
    return tracer.shape(node) == tracer.shape(source)  # type: ignore[arg-type]


@rule("pixel_shuffle")
def pixel_shuffle(tracer: Tracer, node: Node) -> Axes:
    """Consecutive channels become places of one."""
    axis, made = tracer.axes(node.args[0])[-3], tracer.shape(node)[-3]
    joined = None if axis is None else tracer.classes.join_rows(axis.reshape(made, -1))
    return (*tracer.axes(node.args[0])[:-3], joined, None, None)


@rule("pixel_unshuffle")
def pixel_unshuffle(tracer: Tracer, node: Node) -> Axes:
    """Places become consecutive channels."""
    axis, made = tracer.axes(node.args[0])[-3], tracer.shape(node)[-3]
    ids = None if axis is None else np.repeat(axis, made // len(axis))
    return (*tracer.axes(node.args[0])[:-3], ids, None, None)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, node: Node) -> Axes:
    """Channels of groups take turns; the same ones of every group can go."""
    x, groups = node.args[:2]
    found = list(tracer.axes(x))
    if found[1] is not None:
        joined = tracer.classes.join_rows(found[1].reshape(groups, -1).T)
        found[1] = np.repeat(joined, groups)  # type: ignore[arg-type]
    return tuple(found)


__all__: list[str] = []
