"""Normalisations in primitive operators, for targets that lack them.

All are ``(x - mean) / sqrt(var + eps)`` with the biased variance, over different dimensions, then
a scale and a shift; the root-mean-square form leaves the mean in place. Half precision is computed
in float32, as torch does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from lepton_torch._rewrites.folding import NORMS, affine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._editor import Editor

aten = torch.ops.aten
_HALVES = (torch.float16, torch.bfloat16)


def _expand(
    editor: Editor, form: Callable[[Editor, Node, dict[str, Any]], Node | str], *names: str
) -> None:
    for node in editor.find(*names):
        if isinstance(node.meta.get("val"), (tuple, list)) and not editor.only_first(node):
            editor.leave(node, "its statistics are used")
            continue
        with editor.before(node):
            new = form(editor, node, editor.arguments(node))
        if isinstance(new, str):
            editor.leave(node, new)
            continue
        editor.replace(node, new)


def _wide(e: Editor, x: Node) -> Node:
    return e.call(aten.to.dtype, x, torch.float32) if e.dtype(x) in _HALVES else x


def _narrow(e: Editor, x: Node, like: Node) -> Node:
    dtype = e.dtype(like)
    return x if e.dtype(x) == dtype else e.call(aten.to.dtype, x, dtype)


def _normalised(e: Editor, x: Node, dims: Sequence[int], eps: float, centred: bool = True) -> Node:
    if centred:
        x = e.call(aten.sub.Tensor, x, e.call(aten.mean.dim, x, list(dims), True))
    square = e.call(aten.mean.dim, e.call(aten.mul.Tensor, x, x), list(dims), True)
    scale = e.call(aten.rsqrt.default, e.call(aten.add.Tensor, square, eps))
    return e.call(aten.mul.Tensor, x, scale)


def _scaled(e: Editor, x: Node, weight: object, bias: object, shape: list[int] | None) -> Node:
    for value, operator in ((weight, aten.mul.Tensor), (bias, aten.add.Tensor)):
        if isinstance(value, Node):
            wide = _wide(e, value)
            spread = wide if shape is None else e.call(aten.reshape.default, wide, shape)
            x = e.call(operator, x, spread)
    return x


def _per_channel(e: Editor, x: Node) -> list[int]:
    return [-1, *[1] * (len(e.shape(x)) - 2)]


def expand_layer_norm(editor: Editor) -> None:
    """Normalise over the last dimensions."""

    def form(e: Editor, node: Node, a: dict[str, Any]) -> Node:
        x = a["input"]
        dims = range(-len(a["normalized_shape"]), 0)
        y = _normalised(e, _wide(e, x), dims, a["eps"])
        return _narrow(e, _scaled(e, y, a["weight"], a["bias"], None), x)

    _expand(editor, form, "aten.layer_norm", "aten.native_layer_norm")


def expand_rms_norm(editor: Editor) -> None:
    """Divide by the root of the mean square over the last dimensions."""

    def form(e: Editor, node: Node, a: dict[str, Any]) -> Node:
        x = a["input"]
        dims = range(-len(a["normalized_shape"]), 0)
        eps = torch.finfo(e.dtype(x)).eps if a["eps"] is None else a["eps"]
        y = _normalised(e, _wide(e, x), dims, eps, centred=False)
        return _narrow(e, _scaled(e, y, a["weight"], None, None), x)

    _expand(editor, form, "aten.rms_norm", "aten._fused_rms_norm")


def expand_group_norm(editor: Editor) -> None:
    """Normalise over the channels of each group and all positions."""

    def form(e: Editor, node: Node, a: dict[str, Any]) -> Node | str:
        x, groups = a["input"], a["num_groups"]
        channels = e.shape(x)[1]
        if not isinstance(channels, int):
            return "its number of channels is open"
        split = e.call(aten.unflatten.int, _wide(e, x), 1, [groups, channels // groups])
        y = _normalised(e, split, range(2, len(e.shape(split))), a["eps"])
        y = e.call(aten.flatten.using_ints, y, 1, 2)
        return _narrow(e, _scaled(e, y, a["weight"], a["bias"], _per_channel(e, x)), x)

    _expand(editor, form, "aten.group_norm")


def expand_instance_norm(editor: Editor) -> None:
    """Normalise each channel of each sample over all positions."""

    def form(e: Editor, node: Node, a: dict[str, Any]) -> Node | str:
        x = a["input"]
        if not a["use_input_stats"]:
            return "it uses running statistics"
        y = _normalised(e, _wide(e, x), range(2, len(e.shape(x))), a["eps"])
        return _narrow(e, _scaled(e, y, a["weight"], a["bias"], _per_channel(e, x)), x)

    _expand(editor, form, "aten.instance_norm")


def expand_batch_norm(editor: Editor) -> None:
    """Write a batch normalisation that could not be folded as a product and a sum."""

    def form(e: Editor, node: Node, a: dict[str, Any]) -> Node | str:
        x, shape = a["input"], _per_channel(e, a["input"])
        if a.get("training"):
            dims = [0, *range(2, len(e.shape(x)))]
            y = _normalised(e, _wide(e, x), dims, a["eps"])
            return _narrow(e, _scaled(e, y, a["weight"], a["bias"], shape), x)
        values = affine(e, node)
        if isinstance(values, str):
            return values
        stem = str(a["running_mean"].target).removesuffix("running_mean")
        kept = torch.float32 if e.dtype(x) in _HALVES else e.dtype(x)
        parts = [
            e.add_weight(f"{stem}{name}", value.to(kept).reshape(shape))
            for name, value in (("scale", values.scale), ("shift", values.shift))
        ]
        y = e.call(aten.mul.Tensor, _wide(e, x), parts[0])
        return _narrow(e, e.call(aten.add.Tensor, y, parts[1]), x)

    _expand(editor, form, *NORMS, "aten._native_batch_norm_legit")


__all__ = [
    "expand_batch_norm",
    "expand_group_norm",
    "expand_instance_norm",
    "expand_layer_norm",
    "expand_rms_norm",
]
