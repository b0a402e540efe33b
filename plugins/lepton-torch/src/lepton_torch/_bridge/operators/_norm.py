"""Normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge.operators._support import positive

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node


def _channels(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 2))


@operator("BatchNormalization")
def batch_normalization(
    node: Node,
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Normalise by stored statistics; in training mode by the batch's own, which are returned."""
    epsilon = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        if scale.dtype == mean.dtype == x.dtype and x.ndim >= 2:
            return (functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon),)
        wide = [_channels(x, v.float()) for v in (mean, variance, scale, bias)]
        result = (x.float() - wide[0]) / torch.sqrt(wide[1] + epsilon) * wide[2] + wide[3]
        return (result.to(x.dtype),)
    axes = [i for i in range(x.ndim) if i != 1]
    own_mean = x.mean(axes)
    own_variance = x.var(axes, unbiased=False)
    part = node.get("momentum", 0.9)
    result = (x - _channels(x, own_mean)) / torch.sqrt(_channels(x, own_variance) + epsilon)
    return (
        result * _channels(x, scale) + _channels(x, bias),
        mean * part + own_mean * (1 - part),
        variance * part + own_variance * (1 - part),
    )


@operator("InstanceNormalization")
def instance_normalization(
    node: Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Normalise every channel of every row by its own statistics."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_normalization(
    node: Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Normalise over the axes from ``axis`` on; also returns mean and 1 / deviation."""
    axis = positive(node.get("axis", -1), x.ndim)
    epsilon = node.get("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if len(node.outputs) == 1 and list(scale.shape) == shape:
        weight = scale.to(x.dtype)
        if bias is None or list(bias.shape) == shape:
            return (functional.layer_norm(x, shape, weight, bias, epsilon),)
    axes = list(range(axis, x.ndim))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    result = (centred * inverse).to(x.dtype) * scale
    return (result if bias is None else result + bias), mean, inverse


@operator("GroupNormalization")
def group_normalization(
    node: Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Normalise over groups of channels; before opset 21 scale and bias are one per group."""
    groups = node.get("num_groups")
    if node.opset < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("RMSNormalization")
def rms_normalization(node: Node, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Divide by the root of the mean square over the axes from ``axis`` on."""
    axes = list(range(positive(node.get("axis", -1), x.ndim), x.ndim))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    square = (wide * wide).mean(axes, keepdim=True)
    return (wide * torch.rsqrt(square + node.get("epsilon", 1e-5))).to(x.dtype) * scale


@operator("LpNormalization")
def lp_normalization(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Divide by the norm along an axis; a row of zeros stays zero."""
    norm = torch.linalg.vector_norm(x, ord=node.get("p", 2), dim=node.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("LRN")
def local_response(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Divide by a mean square over neighbouring channels."""
    size = node.get("size")
    before = (size - 1) // 2
    square = (x * x).unsqueeze(1)
    pads = [0, 0] * (x.ndim - 2) + [before, size - 1 - before]
    padded = functional.pad(square, pads)
    total = sum(padded.narrow(2, i, x.shape[1]) for i in range(size)).squeeze(1)
    base = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return x / base.pow(node.get("beta", 0.75))


@operator("MeanVarianceNormalization")
def mean_variance(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the deviation over axes."""
    axes = node.get("axes") or [0, 2, 3]
    mean = x.mean(axes, keepdim=True)
    deviation = torch.sqrt((x * x).mean(axes, keepdim=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)
