"""Resizing and sampling of the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


def grid(size: int, wanted: int, mode: str) -> NDArray[np.float64]:
    """Return where each place of the output lies in the input, by MIL's sampling modes."""
    i = np.arange(wanted, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if wanted == 1:
            return np.array([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
        points = i * (size - 1) / (wanted - 1)
    elif mode == "DEFAULT":
        points = i * (size - size / wanted) / max(wanted - 1, 1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / wanted
        points = 0.5 * delta + i * delta
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * size / wanted - 0.5
    else:
        msg = f"the sampling mode {mode!r} is unknown"
        raise ValueError(msg)
    return np.clip(points, 0, size - 1)


def _linear_axis(x: Array, points: NDArray[np.float64], axis: int) -> Array:
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (points - low).astype(np.float32)
    share = share.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return np.take(x, low, axis=axis) * (1 - share) + np.take(x, high, axis=axis) * share


def _bilinear(x: Array, height: int, width: int, mode: str) -> Array:
    rows = _linear_axis(x, grid(x.shape[-2], height, mode), x.ndim - 2)
    return _linear_axis(rows, grid(x.shape[-1], width, mode), x.ndim - 1)


def _nearest(x: Array, height: int, width: int) -> Array:
    """Return the value at floor(i * input / output), as torch's ``nearest`` does."""
    for axis, wanted in ((x.ndim - 2, height), (x.ndim - 1, width)):
        places = np.arange(wanted) * x.shape[axis] // wanted
        x = np.take(x, places, axis=axis)
    return x


def _scaled(size: int, factor: Array) -> int:
    return int(np.floor(size * np.float64(factor) + 1e-6))


@operator("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    x: Array,
    scale_factor_height: Array = np.int32(1),
    scale_factor_width: Array = np.int32(1),
) -> Array:
    """Resize by factors, taking the nearest value."""
    sizes = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return _nearest(x, *sizes)


@operator("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Array, target_size_height: Array, target_size_width: Array) -> Array:
    """Resize to a size, taking the nearest value."""
    return _nearest(x, int(target_size_height), int(target_size_width))


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: Array = np.int32(1),
    scale_factor_width: Array = np.int32(1),
    align_corners: Array = np.True_,
    half_pixel_centers: Array | None = None,
) -> Array:
    """Resize by factors, with linear interpolation."""
    sizes = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    if align_corners:
        mode = "STRICT_ALIGN_CORNERS"
    elif half_pixel_centers is None or half_pixel_centers:
        mode = "UNALIGN_CORNERS"
    else:
        mode = "DEFAULT"
    return _bilinear(x, *sizes, mode)


@operator("resize_bilinear")
def resize_bilinear(
    x: Array,
    target_size_height: Array = np.int32(1),
    target_size_width: Array = np.int32(1),
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resize to a size, with linear interpolation."""
    return _bilinear(x, int(target_size_height), int(target_size_width), sampling_mode)


@operator("resize")
def resize(
    x: Array,
    shape: Array,
    resized_dims: Array,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resize the last axes to given sizes; 0 keeps one."""
    count = int(resized_dims)
    wanted = [int(n) for n in np.ravel(shape)][-count:]
    for axis, size in zip(range(x.ndim - count, x.ndim), wanted, strict=True):
        if size in (0, x.shape[axis]):
            continue
        if interpolation_mode == "LINEAR":
            x = _linear_axis(x, grid(x.shape[axis], size, sampling_mode), axis)
        elif sampling_mode == "DEFAULT":
            x = np.take(x, np.arange(size) * x.shape[axis] // size, axis=axis)
        else:
            points = np.floor(grid(x.shape[axis], size, sampling_mode) + 0.5).astype(np.int64)
            x = np.take(x, points, axis=axis)
    return x


@operator("resample")
def resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Array,
    coordinates_mode: str,
    align_corners: Array,
) -> Array:
    """Take values of ``(B, C, H, W)`` at the points ``(x, y)`` of ``(B, H2, W2, 2)``."""
    height, width = x.shape[-2:]
    points = []
    for axis, size in ((1, height), (0, width)):
        point = coordinates[..., axis].astype(np.float32)
        if coordinates_mode == "normalized_zero_to_one":
            point = point * 2 - 1
        if coordinates_mode != "unnormalized":
            point = (point + 1) / 2 * (size - 1) if align_corners else ((point + 1) * size - 1) / 2
        points.append(_bordered(point, size, padding_mode, bool(align_corners)))
    if sampling_mode == "nearest":
        return _at(x, np.rint(points[0]), np.rint(points[1]), padding_value)
    low = [np.floor(p) for p in points]
    share = [(p - b)[:, None] for p, b in zip(points, low, strict=True)]
    total: Any = 0
    for up in (0, 1):
        for right in (0, 1):
            rows = share[0] if up else 1 - share[0]
            columns = share[1] if right else 1 - share[1]
            total = total + rows * columns * _at(x, low[0] + up, low[1] + right, padding_value)
    return np.asarray(total)


def _bordered(point: Array, size: int, mode: str, corners: bool) -> Array:
    if mode == "border":
        return np.clip(point, 0, size - 1)
    if (mode == "reflection" and not corners) or mode == "symmetric":
        # Mirrors at the edges of the first and last value.
        turned = np.mod(point + 0.5, 2 * size)
        turned = np.where(turned >= size, 2 * size - turned, turned) - 0.5
        return np.clip(turned, 0, size - 1)
    if mode == "reflection":
        turned = np.mod(point, 2 * max(size - 1, 1))
        return np.where(turned > size - 1, 2 * (size - 1) - turned, turned)
    return point


def _at(x: Array, rows: Array, columns: Array, fill: Array) -> Array:
    height, width = x.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    at_row = np.clip(rows, 0, height - 1).astype(np.int64)
    at_column = np.clip(columns, 0, width - 1).astype(np.int64)
    batch = np.arange(x.shape[0])[:, None, None]
    found = np.moveaxis(x[batch, :, at_row, at_column], -1, 1)
    return np.where(inside[:, None], found, fill)


__all__ = ["grid"]
