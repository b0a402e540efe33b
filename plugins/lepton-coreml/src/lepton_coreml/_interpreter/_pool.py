"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._linear import pads_of
from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


def _windows(
    x: Array,
    kernel: list[int],
    strides: list[int],
    around: list[tuple[int, int]],
    fill: float,
    ceil: bool,
) -> Array:
    """Return windows on the last axes, one for each place of the output.

    With *ceil*, a last window may begin inside the input or the padding before it and reach
    beyond the padding behind it.
    """
    spatial = len(kernel)
    extra = []
    for size, k, s, (before, after) in zip(
        x.shape[-spatial:], kernel, strides, around, strict=True
    ):
        free = size + before + after - k
        count = (-(-free // s) if ceil else free // s) + 1
        if ceil and (count - 1) * s >= size + before:
            count -= 1
        extra.append((before, after + max(0, (count - 1) * s + k - (size + before + after))))
    pads = [(0, 0)] * (x.ndim - spatial) + extra
    padded = np.pad(x, pads, constant_values=fill) if any(map(any, pads)) else x
    axes = tuple(range(x.ndim - spatial, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=axes)
    return view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]


def _plan(
    x: Array, kernel_sizes: Array, strides: Array | None, pad_type: str, pad: Array | None
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    kernel = [int(k) for k in np.ravel(kernel_sizes)]
    steps = [1] * len(kernel) if strides is None else [int(s) for s in np.ravel(strides)]
    return kernel, steps, pads_of(pad_type, pad, x.shape[2:], kernel, steps)


@operator("max_pool")
def max_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    ceil_mode: Array = np.False_,
) -> Array:
    """Return the largest value of each window; padding counts as minus infinity."""
    kernel, steps, around = _plan(x, kernel_sizes, strides, pad_type, pad)
    view = _windows(x, kernel, steps, around, -np.inf, bool(ceil_mode))
    return view.max(axis=tuple(range(x.ndim, view.ndim)))


@operator("avg_pool")
def avg_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    exclude_padding_from_average: Array = np.False_,
    ceil_mode: Array = np.False_,
) -> Array:
    """Return the mean of each window, with padding as zeros or left out."""
    kernel, steps, around = _plan(x, kernel_sizes, strides, pad_type, pad)
    ceil = bool(ceil_mode)
    view = _windows(x, kernel, steps, around, 0.0, ceil)
    axes = tuple(range(x.ndim, view.ndim))
    sums = view.sum(axis=axes, dtype=np.float32)
    inside = np.ones((1, 1, *x.shape[2:]), np.float32)
    if not exclude_padding_from_average:
        # Padding counts, but not what a last window reaches beyond it.
        inside = np.pad(inside, [(0, 0), (0, 0), *around], constant_values=1)
        around = [(0, 0)] * len(around)
    return sums / _windows(inside, kernel, steps, around, 0.0, ceil).sum(axis=axes)


@operator("l2_pool")
def l2_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    ceil_mode: Array = np.False_,
) -> Array:
    """Return the root of the sum of squares of each window."""
    kernel, steps, around = _plan(x, kernel_sizes, strides, pad_type, pad)
    view = _windows(np.square(x), kernel, steps, around, 0.0, bool(ceil_mode))
    return np.sqrt(view.sum(axis=tuple(range(x.ndim, view.ndim)), dtype=np.float32))


__all__ = ["avg_pool", "max_pool"]
