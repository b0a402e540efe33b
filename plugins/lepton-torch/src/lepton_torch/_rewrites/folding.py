"""Batch normalisation folded into the linear operator before or behind it.

With running statistics a batch normalisation is ``y = s x + t`` per channel, where
``s = gamma / sqrt(var + eps)`` and ``t = beta - s mean`` (Ioffe and Szegedy 2015, algorithm 2).
Behind a convolution, ``s (W x + b) + t = (s W) x + (s b + t)``; in front of one that pads nothing,
``W (s x + t) + b = (W s) x + (b + W t)``. Computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from lepton_torch._editor import Editor

NORMS = ("aten.batch_norm", "aten._native_batch_norm_legit_no_training")
_CONVS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
_TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
_LINEAR = "aten.linear"


@dataclass
class Affine:
    """What a batch normalisation does to each channel, in float64: ``scale x + shift``."""

    scale: torch.Tensor
    shift: torch.Tensor


def affine(editor: Editor, node: Node) -> Affine | str:
    """Return what a batch normalisation does, or why that is not fixed."""
    given = editor.arguments(node)
    mean, var = (editor.weight(given[k]) for k in ("running_mean", "running_var"))
    if given.get("training"):
        return "it uses the statistics of the batch"
    if mean is None or var is None:
        return "its statistics are not constants"
    gamma, beta = (editor.weight(given[k]) for k in ("weight", "bias"))
    if (gamma is None) != (given["weight"] is None) or (beta is None) != (given["bias"] is None):
        return "its scale or shift is not a constant"
    scale = (var.double() + given["eps"]).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() * scale
    return Affine(scale, shift if beta is None else shift + beta.double())


def fold_batch_norm(editor: Editor) -> None:
    """Fold every batch normalisation that has a linear operator of its own beside it."""
    for node in editor.find(*NORMS):
        problem = _fold(editor, node, behind=True)
        if problem:
            other = _fold(editor, node, behind=False)
            if other:
                editor.leave(node, problem if other == _NO_OPERATOR else other)


_NO_OPERATOR = "there is no convolution or linear layer beside it"


def _fold(editor: Editor, norm: Node, *, behind: bool) -> str:
    """Fold one; return why not, or an empty text."""
    values = affine(editor, norm)
    if isinstance(values, str):
        return values
    if not editor.only_first(norm) and isinstance(norm.meta.get("val"), (tuple, list)):
        return "its statistics are used"
    operator = norm.args[0] if behind else _only_reader(norm)
    kind = _kind(operator)
    if kind is None or not isinstance(operator, Node):
        return _NO_OPERATOR
    problem = _blocked(editor, norm, operator, kind, behind)
    if problem:
        return problem
    given = editor.arguments(operator)
    weight, bias = editor.weight(given["weight"]), editor.weight(given["bias"])
    assert weight is not None  # noqa: S101 - looked at before
    groups = int(given.get("groups", 1))
    w = weight.double()
    b = None if bias is None else bias.double()
    if behind:
        w = _scaled_outputs(w, values.scale, groups, kind)
        b = values.shift if b is None else b * values.scale + values.shift
    else:
        per_output = _spread_inputs(values.shift, w, groups)
        b = per_output if b is None else b + per_output
        w = w * _by_input(values.scale, w, groups)
    _set(editor, operator, given, w.to(weight.dtype), b.to(weight.dtype))
    name = str(operator.target).split(".")[1]
    side = "before" if behind else "behind"
    editor.replace(
        norm, operator if behind else _source(norm), f"batch_norm folded into the {name} {side} it"
    )
    return ""


def _source(norm: Node) -> Node:
    source = norm.args[0]
    assert isinstance(source, Node)  # noqa: S101 - a tensor operator's input
    return source


def _only_reader(norm: Node) -> object:
    readers = list(norm.users)
    if len(readers) == 1 and readers[0].target is __import__("operator").getitem:
        readers = list(readers[0].users)
    if len(readers) != 1 or readers[0].op != "call_function" or not readers[0].args:
        return None
    first = readers[0].args[0]
    reads = first is norm or (isinstance(first, Node) and first.args[:1] == (norm,))
    return readers[0] if reads else None


def _kind(node: object) -> str | None:
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    packet = str(node.target).rpartition(".")[0]
    if packet == "aten.convolution":
        return "transposed" if node.args[6] else "conv"
    if packet in _CONVS:
        return "conv"
    if packet in _TRANSPOSED:
        return "transposed"
    return "linear" if packet == _LINEAR else None


def _blocked(editor: Editor, norm: Node, operator: Node, kind: str, behind: bool) -> str:  # noqa: PLR0911
    """Return what speaks against folding, or an empty text."""
    given = editor.arguments(operator)
    name = str(operator.target).split(".")[1]
    if behind and len(operator.users) != 1:
        return f"the output of the {name} is also used elsewhere"
    weight, bias = given["weight"], given["bias"]
    value = editor.weight(weight)
    if value is None or (bias is not None and editor.weight(bias) is None):
        return f"the weights of the {name} are computed"
    if editor.is_shared(weight) or (bias is not None and editor.is_shared(bias)):
        return f"the weights of the {name} are used at other places, too"
    if value.dtype not in (torch.float32, torch.float64):
        return f"weights in {str(value.dtype).removeprefix('torch.')} would be rounded twice"
    if kind == "linear" and len(editor.shape(_source(norm))) != 2:
        return "it normalises another dimension than the linear layer computes"
    if behind:
        return ""
    if kind == "transposed":
        return "a transposed convolution behind it mixes the shift with its borders"
    padding = given.get("padding", 0)
    sizes = padding if isinstance(padding, (list, tuple)) else [padding]
    if kind == "conv" and any(size not in (0, "valid") for size in sizes):
        return f"the {name} behind it pads with zeros"
    return ""


def _channels(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def _scaled_outputs(w: torch.Tensor, scale: torch.Tensor, groups: int, kind: str) -> torch.Tensor:
    """Multiply the weights of each output channel.

    A convolution has them first, ``[out, in / groups, …]``; a transposed one second,
    ``[in, out / groups, …]``, where the group of a row follows from its input channel.
    """
    if kind != "transposed":
        return w * _channels(scale, w)
    parts = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    factor = scale.reshape(groups, 1, w.shape[1], *[1] * (w.ndim - 2))
    return (parts * factor).reshape(w.shape)


def _by_input(values: torch.Tensor, w: torch.Tensor, groups: int) -> torch.Tensor:
    """Spread a value per input channel over ``[out, in / groups, 1, …]``."""
    per_group = values.reshape(groups, 1, w.shape[1])
    rows = per_group.expand(groups, w.shape[0] // groups, w.shape[1]).reshape(w.shape[0], -1)
    return rows.reshape(*rows.shape, *[1] * (w.ndim - 2))


def _spread_inputs(shift: torch.Tensor, w: torch.Tensor, groups: int) -> torch.Tensor:
    """Return what a shift of the inputs adds to each output channel."""
    return (w * _by_input(shift, w, groups)).flatten(1).sum(1)


def _set(
    editor: Editor, node: Node, given: dict[str, Any], weight: torch.Tensor, bias: torch.Tensor
) -> None:
    editor.set_weight(given["weight"], weight)
    if given["bias"] is not None:
        editor.set_weight(given["bias"], bias)
        return
    name = str(given["weight"].target)
    owner, _, last = name.rpartition(".")
    fresh = last.replace("weight", "bias") if "weight" in last else f"{last}_bias"
    place = editor.add_weight(f"{owner}.{fresh}" if owner else fresh, bias)
    arguments = [*node.args]
    if len(arguments) > 2:
        arguments[2] = place
        node.args = tuple(arguments)
    else:
        node.kwargs = {**node.kwargs, "bias": place}


__all__ = ["NORMS", "Affine", "affine", "fold_batch_norm"]
