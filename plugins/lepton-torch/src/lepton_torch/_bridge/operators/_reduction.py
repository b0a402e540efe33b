"""Reductions and places of extremes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch._bridge._registry import Operator, operator
from lepton_torch._bridge.operators._support import axes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Known


def _sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    return torch.mean(x.double(), axes, keepdim=keep).to(x.dtype)


def _prod(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(largest: bool) -> Callable[[torch.Tensor, list[int], bool], torch.Tensor]:
    function = torch.amax if largest else torch.amin

    def compute(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
        if all(x.shape[axis] != 0 for axis in axes):
            return function(x, axes, keepdim=keep)
        if x.is_floating_point():
            end = float("-inf") if largest else float("inf")
        else:
            info = torch.iinfo(x.dtype)
            end = info.min if largest else info.max
        return torch.full_like(torch.sum(x, axes, keepdim=keep), end, dtype=x.dtype)

    return compute


def _log_sum_exp(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    values = x if x.is_floating_point() else x.double()
    return torch.logsumexp(values, axes, keepdim=keep).to(x.dtype)


def _l2(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    values = x if x.is_floating_point() else x.double()
    return _sum(values * values, axes, keep).sqrt().to(x.dtype)


def _log_sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _sum(x if x.is_floating_point() else x.double(), axes, keep).log().to(x.dtype)


_REDUCTIONS: dict[str, Callable[[torch.Tensor, list[int], bool], torch.Tensor]] = {
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(largest=True),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(largest=False),
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
}


def _reduction(
    function: Callable[[torch.Tensor, list[int], bool], torch.Tensor],
) -> Callable[..., torch.Tensor]:
    def compute(node: Node, x: torch.Tensor, axes: Known | None = None) -> torch.Tensor:
        over = axes_of(node, axes)
        if not over:
            if node.get("noop_with_empty_axes", 0):  # each element is reduced by itself
                return function(x.unsqueeze(-1), [-1], False)
            over = list(range(x.ndim))
            if not over:
                return function(x.unsqueeze(-1), [-1], False)
        if x.dtype == torch.bool:
            # Converters take no smaller integers; of no value there is the least or the largest.
            found = function(x.to(torch.int32), over, bool(node.get("keepdims", 1)))
            return found.clamp(0, 1).to(torch.bool)
        return function(x, over, bool(node.get("keepdims", 1)))

    return compute


for _name, _function in _REDUCTIONS.items():
    operator(_name, known=(1,))(_reduction(_function))


def _place(
    function: Callable[..., torch.Tensor],
) -> Callable[[Node, torch.Tensor], torch.Tensor]:
    def compute(node: Node, x: torch.Tensor) -> torch.Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return function(x, axis, keep)
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)

    return compute


operator("ArgMax")(_place(torch.argmax))
operator("ArgMin")(_place(torch.argmin))


@operator("TopK", known=(1,))
def top_k(node: Node, x: torch.Tensor, count: Known) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest or smallest values along an axis with their places.

    Of equal values the first comes first, as ONNX asks; ``torch.topk`` does not promise that.
    """
    axis = node.get("axis", -1)
    largest = bool(node.get("largest", 1))
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    k = count.ints()[0]
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


def _own_top_k(node: Node, x: torch.Tensor, count: Known) -> tuple[torch.Tensor, torch.Tensor]:
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    values, places = torch.topk(x, count.ints()[0], dim=axis, largest=largest)
    return values, places


TOP_K = Operator("TopK", _own_top_k, (1,), (), "reduction")
"""TopK as torch's own operator, for converters that have a kernel for it and none for a sort. Which
of equal values comes first is theirs to say."""
