"""Translations to torch that suit litert-torch and the runtime better than the bridge's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch.bridge import CUT_CONV_TRANSPOSE, TOP_K, Operator

if TYPE_CHECKING:
    from lepton_torch.bridge import Node

SORTS = (TOP_K.name,)
"""Operators by which the file is not held against the module that it is made from: which of equal
values comes first is the runtime's to say there, and it says what ONNX does."""
_SATURATED = 20.0
"""From here on Mish is its input in float32, and e^2x is far from overflow."""


def _mish(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x tanh(log(1 + e^x)) as x w / (w + 2) with w = e^x (e^x + 2).

    The logarithm, as the runtime has it, loses the digits of a small e^x.
    """
    del node
    e = torch.exp(torch.clamp(x, max=_SATURATED))
    w = e * (e + 2.0)
    return x * (w / (w + 2.0))


def overrides() -> dict[str, Operator]:
    """Return translations that take the place of the bridge's own.

    The runtime has a kernel for TopK, and none for the sort that the bridge makes of it; the
    converter fails when it writes ``logical_xor``, and fails or gives other numbers for a
    transposed convolution by a stride whose padding is neither VALID nor SAME, or that pads its
    output.
    """
    own = (
        TOP_K,
        CUT_CONV_TRANSPOSE,
        Operator("Mish", _mish, (), (), "activation"),
        Operator("Xor", lambda node, x, y: torch.ne(x, y), (), (), "logic"),
    )
    return {operator.name: operator for operator in own}


__all__ = ["SORTS", "overrides"]
