"""Scales of ranges that are not symmetric about 0, said in plain NumPy."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels.reference.quantization import minmax

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scale_affine(
    low: NDArray[Any], high: NDArray[Any], limits: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales and zero points that spread the integers of `limits` over ranges."""
    lowest = np.minimum(np.asarray(low, np.float32), np.float32(0))
    highest = np.maximum(np.asarray(high, np.float32), np.float32(0))
    steps = limits[1] - limits[0]
    width = highest.astype(np.float64) - lowest.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.maximum((width / steps).astype(np.float32), np.finfo(np.float32).tiny)
        scale = np.asarray(np.where(width == 0, 1, scale), np.float32)
        zero = np.clip(limits[0] + np.rint(-lowest / scale), *limits)
    return scale, np.asarray(zero, np.int64)


def percentile_range(
    x: NDArray[Any], percentile: float, axis: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The limits of the central `percentile` of each channel, found by sorting its values."""
    values = np.asarray(x, np.float32)
    front = values[None] if axis is None else np.moveaxis(values, axis, 0)
    rows = np.sort(front.reshape(len(front), -1), axis=-1)
    n = rows.shape[1]
    rank = max(1, math.ceil((1 + Fraction(repr(percentile)) / 100) / 2 * n))
    shape = () if axis is None else (len(front),)
    return rows[:, n - rank].reshape(shape), rows[:, rank - 1].reshape(shape)


def scale_signed_max(
    x: NDArray[Any], smallest: int, axis: int | None = None
) -> NDArray[np.float32]:
    """The scales that turn the value of largest magnitude into the smallest integer."""
    low, high = minmax(x, axis)
    extreme = np.where(high > -low, high, low)
    with np.errstate(all="ignore"):
        scale = extreme / np.float32(smallest)
    floor = np.copysign(np.finfo(np.float32).tiny, scale)
    scale = np.where(np.abs(scale) < np.abs(floor), floor, scale)
    return np.where(extreme == 0, np.float32(1), scale)
