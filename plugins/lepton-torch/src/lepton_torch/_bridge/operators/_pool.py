"""Pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge.operators._linear import geometry, padded, same_pads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._bridge._registry import Node

_MAX: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def _window(node: Node, x: torch.Tensor) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return kernel, strides, dilations and pads, with what ``ceil_mode`` adds at the end."""
    kernel = list(node.get("kernel_shape"))
    strides, dilations = geometry(node, len(kernel))
    if len(kernel) not in _MAX:
        node.refuse(f"it works on {len(kernel)} dimensions")
    return kernel, strides, dilations, same_pads(node, x.shape[2:], kernel, strides, dilations)


def _ceiled(
    node: Node, sizes: Sequence[int], kernel: list[int], strides: list[int],
    dilations: list[int], pads: list[int],
) -> list[int]:  # fmt: skip
    """Return what has to be padded at the end so that the last, partial window fits."""
    extra = [0] * len(kernel)
    if not node.get("ceil_mode", 0) or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return extra
    half = len(kernel)
    for i, size in enumerate(sizes):
        whole = size + pads[i] + pads[half + i]
        reach = dilations[i] * (kernel[i] - 1) + 1
        steps = -(-(whole - reach) // strides[i]) + 1
        if (steps - 1) * strides[i] >= size + pads[i]:  # would start in the padding
            steps -= 1
        extra[i] = max((steps - 1) * strides[i] + reach - whole, 0)
    return extra


@operator("MaxPool")
def max_pool(node: Node, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the largest value of every window, and its place if that is asked for."""
    kernel, strides, dilations, pads = _window(node, x)
    rank = len(kernel)
    extra = _ceiled(node, x.shape[2:], kernel, strides, dilations, pads)
    plain = pads[:rank] == pads[rank:] and not any(extra)
    plain = plain and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    own = x.dtype
    if own in (torch.int8, torch.uint8):
        x = x.float()  # torch pools floats only; bytes are exact in them
    if len(node.outputs) == 1:
        if plain:
            return (_MAX[rank](x, kernel, strides, pads[:rank], dilations).to(own),)
        ends = [p + e for p, e in zip(pads[rank:], extra, strict=True)]
        wide = padded(x, [*pads[:rank], *ends], float("-inf"))
        return (_MAX[rank](wide, kernel, strides, 0, dilations).to(own),)
    if not plain:
        node.refuse("the places of maxima are asked for with uneven padding")
    values, places = _MAX[rank](x, kernel, strides, pads[:rank], dilations, return_indices=True)
    sizes = x.shape[2:]
    if node.get("storage_order", 0):
        places = _column_major(places, sizes)
    rows = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * rank)
    return values.to(own), places + rows * math.prod(sizes)


def _column_major(places: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    result, step = torch.zeros_like(places), math.prod(sizes)
    for size in reversed(sizes):
        step = step // size
        result = result + (places % size) * step
        places = places // size
    return result


@operator("AveragePool")
def average_pool(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the mean of every window, with or without the padding."""
    kernel, strides, dilations, pads = _window(node, x)
    rank = len(kernel)
    counted = bool(node.get("count_include_pad", 0))
    extra = _ceiled(node, x.shape[2:], kernel, strides, dilations, pads)
    plain = pads[:rank] == pads[rank:] and not any(extra) and all(d == 1 for d in dilations)
    if plain and all(2 * p <= k for p, k in zip(pads, kernel, strict=False)):
        return _AVERAGE[rank](x, kernel, strides, pads[:rank], False, counted)
    ends = [p + e for p, e in zip(pads[rank:], extra, strict=True)]
    sums = _window_sum(padded(x, [*pads[:rank], *ends]), kernel, strides, dilations)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    inside = padded(ones, pads, 1.0 if counted else 0.0)
    inside = padded(inside, [0] * rank + extra)
    return sums / _window_sum(inside, kernel, strides, dilations)


def _window_sum(
    x: torch.Tensor, kernel: list[int], strides: list[int], dilations: list[int]
) -> torch.Tensor:
    """Add up every window by a convolution with ones."""
    rank = len(kernel)
    weight = torch.ones([1, 1, *kernel], dtype=x.dtype)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    flat = x.reshape(-1, 1, *x.shape[2:])
    sums = convolve(flat, weight, None, strides, 0, dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator("LpPool")
def lp_pool(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the p-norm of every window."""
    kernel, strides, dilations, pads = _window(node, x)
    extra = _ceiled(node, x.shape[2:], kernel, strides, dilations, pads)
    rank, p = len(kernel), node.get("p", 2)
    ends = [a + e for a, e in zip(pads[rank:], extra, strict=True)]
    powers = padded(x.abs().pow(p), [*pads[:rank], *ends])
    return _window_sum(powers, kernel, strides, dilations).pow(1.0 / p)


@operator("GlobalAveragePool")
def global_average(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the mean of every channel."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the largest value of every channel."""
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the p-norm of every channel."""
    axes = list(range(2, x.ndim))
    return torch.linalg.vector_norm(x, node.get("p", 2), axes, keepdim=True)
