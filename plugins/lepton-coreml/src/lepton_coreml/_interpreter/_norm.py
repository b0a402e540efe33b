"""Normalisation, with sums in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]
_EPSILON = np.float32(1e-5)


def _channels(values: Array, ndim: int) -> Array:
    return np.reshape(values, [-1 if i == 1 else 1 for i in range(ndim)])


@operator("batch_norm")
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array = _EPSILON,
) -> Array:
    """Normalise channels (axis 1) by known statistics."""
    scale = np.float32(1) / np.sqrt(variance + epsilon)
    result = (x - _channels(mean, x.ndim)) * _channels(scale, x.ndim)
    return _affine(result, gamma, beta)


@operator("instance_norm")
def instance_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array = _EPSILON,
) -> Array:
    """Normalise each channel of each row over its spatial axes."""
    axes = tuple(range(2, x.ndim))
    return _affine(_normalised(x, axes, epsilon), gamma, beta)


def _affine(x: Array, gamma: Array | None, beta: Array | None) -> Array:
    if gamma is not None:
        x = x * _channels(gamma, x.ndim)
    return x if beta is None else x + _channels(beta, x.ndim)


def _normalised(x: Array, axes: tuple[int, ...], epsilon: Array) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float32)
    variance = np.square(centred).mean(axis=axes, keepdims=True, dtype=np.float32)
    return centred / np.sqrt(variance + epsilon)


@operator("layer_norm")
def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array = _EPSILON,
) -> Array:
    """Normalise over axes, then scale and shift along them."""
    chosen = tuple(range(x.ndim) if axes is None else sorted(int(a) % x.ndim for a in axes))
    result = _normalised(x, chosen, epsilon)
    shape = [x.shape[i] if i in chosen else 1 for i in range(x.ndim)]
    if gamma is not None:
        result = result * np.reshape(gamma, shape)
    return result if beta is None else result + np.reshape(beta, shape)


@operator("l2_norm")
def l2_norm(x: Array, epsilon: Array = np.float32(1e-6)) -> Array:
    """Divide by the root of the sum of squares of the last three axes."""
    axes = tuple(range(-3, 0))
    return x / np.sqrt(np.square(x).sum(axis=axes, keepdims=True, dtype=np.float32) + epsilon)


@operator("local_response_norm")
def local_response_norm(
    x: Array,
    size: Array,
    alpha: Array = np.float32(1e-4),
    beta: Array = np.float32(0.75),
    k: Array = np.float32(1),
) -> Array:
    """Divide by a power of the sum of squares over neighbouring channels (axis 1)."""
    width = int(size)
    before = width // 2
    pads = [(before, width - 1 - before) if i == 1 else (0, 0) for i in range(x.ndim)]
    view = np.lib.stride_tricks.sliding_window_view(np.pad(np.square(x), pads), width, axis=1)
    return x / np.power(k + alpha / np.float32(width) * view.sum(axis=-1), beta)


__all__ = ["layer_norm"]
