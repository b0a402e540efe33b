"""Activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._elementwise import erf_of
from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]
_ONE = np.float32(1)


@operator("relu")
def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    return np.maximum(x, 0)


@operator("relu6")
def relu6(x: Array) -> Array:
    """Cut to 0 … 6."""
    return np.clip(x, 0, 6)


@operator("clamped_relu")
def clamped_relu(x: Array, alpha: Array, beta: Array) -> Array:
    """Return min(beta, x) above 0, min(beta, alpha x) below."""
    return np.minimum(beta, np.where(x >= 0, x, alpha * x))


@operator("leaky_relu")
def leaky_relu(x: Array, alpha: Array = np.float32(0.01)) -> Array:
    """Return x above 0, alpha x below."""
    return np.where(x >= 0, x, alpha * x)


@operator("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """Return x above 0, alpha x below, with one alpha for each channel (axis 1)."""
    return np.where(x >= 0, x, _along_channels(alpha, x) * x)


@operator("elu")
def elu(x: Array, alpha: Array = _ONE) -> Array:
    """Return x above 0, alpha (exp(x) - 1) below."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@operator("gelu")
def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Return the Gaussian error linear unit, exact or by one of its approximations."""
    if mode == "EXACT":
        return np.float32(0.5) * x * (_ONE + erf_of(x / np.float32(np.sqrt(2))))
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
        return np.float32(0.5) * x * (_ONE + np.tanh(inner))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(np.float32(1.702) * x)
    msg = f"the mode {mode!r} is unknown"
    raise ValueError(msg)


@operator("linear_activation")
def linear_activation(x: Array, alpha: Array, beta: Array = np.float32(0)) -> Array:
    """Return alpha x + beta."""
    return alpha * x + beta


@operator("scaled_tanh")
def scaled_tanh(x: Array, alpha: Array = _ONE, beta: Array = _ONE) -> Array:
    """Return alpha tanh(beta x)."""
    return alpha * np.tanh(beta * x)


@operator("sigmoid")
def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), computed so that nothing overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, _ONE, small) / (_ONE + small)


@operator("sigmoid_hard")
def sigmoid_hard(
    x: Array,
    alpha: Array = np.float32(0.2),
    beta: Array = np.float32(0.5),
) -> Array:
    """Cut alpha x + beta to 0 … 1."""
    return np.clip(alpha * x + beta, 0, 1)


@operator("silu")
def silu(x: Array) -> Array:
    """Return x sigmoid(x)."""
    return x * sigmoid(x)


@operator("softplus")
def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)), computed so that nothing overflows."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@operator("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """Return alpha log(1 + exp(beta x)) with one alpha and beta for each channel (axis 1)."""
    return _along_channels(alpha, x) * softplus(_along_channels(beta, x) * x)


@operator("softsign")
def softsign(x: Array) -> Array:
    """Return x / (1 + |x|)."""
    return x / (_ONE + np.abs(x))


@operator("tanh")
def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent."""
    return np.tanh(x)


@operator("thresholded_relu")
def thresholded_relu(x: Array, alpha: Array = _ONE) -> Array:
    """Return x where it is at least alpha, else 0."""
    return np.where(x >= alpha, x, 0)


@operator("softmax")
def softmax(x: Array, axis: Array = np.int32(-1)) -> Array:
    """Return exp(x) over its sum along an axis."""
    small = np.exp(x - x.max(axis=int(axis), keepdims=True))
    return small / small.sum(axis=int(axis), keepdims=True, dtype=np.float32)


def _along_channels(values: Array, x: Array) -> Array:
    return np.asarray(values).reshape([-1 if i == 1 else 1 for i in range(x.ndim)])


ACTIVATIONS = {
    "relu": relu, "tanh": tanh, "sigmoid": sigmoid, "sigmoid_hard": sigmoid_hard,
    "hard_sigmoid": sigmoid_hard, "softplus": softplus, "softsign": softsign,
    "scaled_tanh": scaled_tanh, "linear": lambda x: x, "elu": elu, "leaky_relu": leaky_relu,
    "thresholded_relu": thresholded_relu,
}  # fmt: skip
"""Activations by the names that recurrent operators use."""

__all__ = ["ACTIVATIONS", "sigmoid", "softmax"]
