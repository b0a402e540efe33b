"""Activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import Known

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Value


@operator("Relu")
def relu(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x, times alpha below zero."""
    return functional.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu")
def prelu(_node: Node, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return x, times a slope per channel below zero."""
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x, or alpha (exp(x) - 1) below zero."""
    return functional.elu(x, node.get("alpha", 1.0))


@operator("Selu")
def selu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return gamma times x, or alpha (exp(x) - 1) below zero."""
    alpha = node.get("alpha", 1.67326319217681884765625)
    gamma = node.get("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * (torch.exp(x) - 1))


@operator("Celu")
def celu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x, or alpha (exp(x / alpha) - 1) below zero."""
    return functional.celu(x, node.get("alpha", 1.0))


@operator("Sigmoid")
def sigmoid(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return alpha x + beta, limited to 0 and 1."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("HardSwish")
def hard_swish(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x clamp(x + 3, 0, 6) / 6."""
    return functional.hardswish(x)


@operator("Swish")
def swish(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x sigmoid(alpha x)."""
    alpha = node.get("alpha", 1.0)
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Gelu")
def gelu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x times the normal distribution's integral, exact or by tanh."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


@operator("Mish")
def mish(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x tanh(softplus(x))."""
    return functional.mish(x)


@operator("Softplus")
def softplus(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(x))."""
    return functional.softplus(x, threshold=50)


@operator("Softsign")
def softsign(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + |x|)."""
    return functional.softsign(x)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return x above alpha, else 0."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Shrink")
def shrink(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Move x towards zero by the bias; 0 within lambd of zero."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    zero = torch.zeros_like(x)
    moved = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))
    return moved.to(x.dtype)


@operator("Softmax")
def softmax(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return exp(x) as shares of its sum along an axis."""
    return torch.softmax(x, node.get("axis", -1))


@operator("LogSoftmax")
def log_softmax(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the softmax."""
    return torch.log_softmax(x, node.get("axis", -1))


@operator("Hardmax")
def hardmax(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return 1 at the first largest value along an axis, else 0."""
    axis = node.get("axis", -1)
    first = torch.argmax(x, axis, keepdim=True)
    return torch.scatter(torch.zeros_like(x), axis, first, 1.0)


@operator("Dropout", either=(1, 2))
def dropout(
    node: Node, x: torch.Tensor, ratio: Value | None = None, training: Value | None = None
) -> tuple[torch.Tensor, ...]:
    """Return the input, as at inference or with a ratio of 0; the mask keeps everything."""
    drops = isinstance(training, torch.Tensor) or (training is not None and training.item())
    keeps = isinstance(ratio, Known) and not ratio.item()
    if drops and not keeps:
        node.refuse("it drops values at random, as in training", "Export the model in eval mode.")
    if len(node.outputs) == 1:
        return (x,)
    return x, torch.ones_like(x, dtype=torch.bool)
