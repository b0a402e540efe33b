"""Quantization of activations: integers = clip(round(real / scale) + zero point)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


def along(values: Array, axis: Array | None, ndim: int) -> Array:
    """Return scales or zero points so that they broadcast along an axis."""
    if np.ndim(values) == 0:
        return np.asarray(values)
    if axis is None:
        msg = "there is a scale for each channel, but no axis"
        raise ValueError(msg)
    return np.reshape(values, [-1 if i == int(axis) % ndim else 1 for i in range(ndim)])


@operator("quantize")
def quantize(
    input: Array,
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: Array | None = None,
) -> Array:
    """Return integers, rounded half to even and saturated."""
    limits = np.iinfo(output_dtype)
    rounded = np.rint(np.asarray(input, np.float32) / along(scale, axis, input.ndim))
    if zero_point is not None:
        rounded = rounded + along(zero_point, axis, input.ndim).astype(np.float32)
    return np.clip(rounded, limits.min, limits.max).astype(output_dtype)


@operator("dequantize")
def dequantize(
    input: Array,
    scale: Array,
    zero_point: Array | None = None,
    axis: Array | None = None,
) -> Array:
    """Return scale (integer - zero point)."""
    wide = input.astype(np.int32)
    if zero_point is not None:
        wide = wide - along(zero_point, axis, input.ndim).astype(np.int32)
    return wide.astype(np.float32) * along(scale, axis, input.ndim)


__all__ = ["along", "dequantize", "quantize"]
