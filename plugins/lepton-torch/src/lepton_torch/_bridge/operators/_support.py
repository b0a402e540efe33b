"""What several families of translations need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Known

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def widened(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute unsigned types that torch hardly knows as int64, and come back.

    Sums, products and bit patterns agree modulo 2^64; comparisons above 2^63 would not.
    """

    def compute(*tensors: torch.Tensor) -> torch.Tensor:
        dtype = tensors[0].dtype
        if dtype not in _UNSIGNED:
            return function(*tensors)
        result = function(*(t.to(torch.int64) if t.dtype in _UNSIGNED else t for t in tensors))
        return result.to(dtype) if result.dtype == torch.int64 else result

    return compute


def axes_of(node: Node, axes: Known | None, name: str = "axes") -> list[int] | None:
    """Return axes from the input (newer opsets) or the attribute (older ones)."""
    if axes is not None:
        return axes.ints()
    found: Any = node.get(name)
    return None if found is None else [int(a) for a in found]


def positive(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis


def in_float32(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute half-precision tensors in float32, and round once at the end."""

    def compute(x: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ANN401
        if x.dtype in (torch.float16, torch.bfloat16):
            return function(x.float(), *rest).to(x.dtype)
        return function(x, *rest)

    return compute
