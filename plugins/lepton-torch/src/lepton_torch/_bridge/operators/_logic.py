"""Comparisons, logic and bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge.operators._support import widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._bridge._registry import Node

_PAIRS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}


def _pair(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[..., torch.Tensor]:
    wide = widened(function)

    def compute(_node: Node, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return wide(a, b)

    return compute


for _name, _function in _PAIRS.items():
    operator(_name)(_pair(_function))


@operator("Not")
def logical_not(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the opposite."""
    return torch.logical_not(x)


@operator("BitwiseNot")
def bitwise_not(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Flip every bit."""
    return widened(torch.bitwise_not)(x)


@operator("BitShift")
def bit_shift(node: Node, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Shift unsigned integers."""
    left = node.get("direction") == "LEFT"
    return widened(torch.bitwise_left_shift if left else torch.bitwise_right_shift)(x, by)


@operator("IsNaN")
def is_nan(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Tell where the values are no numbers."""
    return torch.isnan(x)


@operator("IsInf")
def is_inf(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Tell where the values are infinite, of the signs asked for."""
    found = torch.isinf(x)
    if not node.get("detect_negative", 1):
        found = found & (x > 0)
    if not node.get("detect_positive", 1):
        found = found & (x < 0)
    return found
