"""Activations in primitive operators, for targets that lack them.

The forms are those of torch's documentation; ``mish`` uses
``softplus(x) = max(x, 0) + log(1 + exp(-|x|))``, which does not overflow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import Node

    from lepton_torch._editor import Editor

aten = torch.ops.aten


def _expand(editor: Editor, form: Callable[[Editor, dict[str, Any]], Node], *names: str) -> None:
    for node in editor.find(*names):
        if node.target._schema.is_mutable:  # type: ignore[union-attr]
            editor.leave(node, "it writes into a tensor that others read")
            continue
        with editor.before(node):
            new = form(editor, editor.arguments(node))
        editor.replace(node, new)


def _gate(editor: Editor, x: Node) -> Node:
    """Return ``clamp(x + 3, 0, 6) / 6``."""
    moved = editor.call(aten.add.Tensor, x, 3.0)
    return editor.call(aten.div.Tensor, editor.call(aten.clamp.default, moved, 0.0, 6.0), 6.0)


def expand_hardswish(editor: Editor) -> None:
    """Write ``x clamp(x + 3, 0, 6) / 6``."""
    _expand(
        editor,
        lambda e, a: e.call(aten.mul.Tensor, a["self"], _gate(e, a["self"])),
        "aten.hardswish",
    )


def expand_hardsigmoid(editor: Editor) -> None:
    """Write ``clamp(x + 3, 0, 6) / 6``."""
    _expand(editor, lambda e, a: _gate(e, a["self"]), "aten.hardsigmoid")


def expand_silu(editor: Editor) -> None:
    """Write ``x sigmoid(x)``."""
    _expand(
        editor,
        lambda e, a: e.call(aten.mul.Tensor, a["self"], e.call(aten.sigmoid.default, a["self"])),
        "aten.silu",
    )


def expand_relu6(editor: Editor) -> None:
    """Write ``clamp(x, 0, 6)``, or the limits that ``hardtanh`` was given."""

    def form(e: Editor, a: dict[str, Any]) -> Node:
        return e.call(aten.clamp.default, a["self"], a.get("min_val", 0.0), a.get("max_val", 6.0))

    _expand(editor, form, "aten.relu6", "aten.hardtanh")


def expand_gelu(editor: Editor) -> None:
    """Write ``x / 2 (1 + erf(x / sqrt 2))``, or its tanh form where that is what the model has."""

    def form(e: Editor, a: dict[str, Any]) -> Node:
        x = a["self"]
        half = e.call(aten.mul.Tensor, x, 0.5)
        if a["approximate"] == "tanh":
            cube = e.call(aten.mul.Tensor, e.call(aten.mul.Tensor, x, x), x)
            inner = e.call(aten.add.Tensor, x, e.call(aten.mul.Tensor, cube, 0.044715))
            scaled = e.call(aten.mul.Tensor, inner, math.sqrt(2 / math.pi))
            bent = e.call(aten.tanh.default, scaled)
        else:
            bent = e.call(aten.erf.default, e.call(aten.mul.Tensor, x, math.sqrt(0.5)))
        return e.call(aten.mul.Tensor, half, e.call(aten.add.Tensor, bent, 1.0))

    _expand(editor, form, "aten.gelu")


def expand_mish(editor: Editor) -> None:
    """Write ``x tanh(softplus(x))``."""

    def form(e: Editor, a: dict[str, Any]) -> Node:
        x = a["self"]
        small = e.call(aten.exp.default, e.call(aten.neg.default, e.call(aten.abs.default, x)))
        rest = e.call(aten.log.default, e.call(aten.add.Tensor, small, 1.0))
        soft = e.call(aten.add.Tensor, e.call(aten.relu.default, x), rest)
        return e.call(aten.mul.Tensor, x, e.call(aten.tanh.default, soft))

    _expand(editor, form, "aten.mish")


__all__ = [
    "expand_gelu",
    "expand_hardsigmoid",
    "expand_hardswish",
    "expand_mish",
    "expand_relu6",
    "expand_silu",
]
