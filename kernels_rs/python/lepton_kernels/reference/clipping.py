"""The search for a scale of least squared error, said in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDE = [1, 0.7, 0.49, 0.343, 0.24, 0.168, 0.118, 0.082]
NARROW_LONG = [1, 0.95, 0.9, 0.85, 0.8, 1.05, 1.1, 1.15]
NARROW = [1, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75]
NARROW += [1.025, 1.05, 1.075, 1.1, 1.125]
NARROW_ASYMMETRIC = [1, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8]
NARROW_ASYMMETRIC += [1.02, 1.04, 1.06, 1.08, 1.1]
CHUNK, SHORT = 1024, 256


def search_scale(
    block: NDArray[Any],
    scale: NDArray[np.float32],
    zero: NDArray[np.int32],
    limits: tuple[int, int],
    scheme: str,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scales and zero points of least error along the last axis, near those of the range."""
    rows = block.reshape(-1, block.shape[-1])
    found = [
        _search(row, s, int(z), limits, scheme) if row.any() else (s, z)
        for row, s, z in zip(rows, scale.ravel(), zero.ravel(), strict=True)
    ]
    scales = np.array([s for s, _ in found], np.float32).reshape(scale.shape)
    return scales, np.array([z for _, z in found], np.int32).reshape(zero.shape)


def _search(
    row: NDArray[np.float32], scale: np.float32, zero: int, limits: tuple[int, int], scheme: str
) -> tuple[np.float32, int]:
    asymmetric = scheme == "asymmetric"
    # All values in units of the scale of the range.
    x = np.asarray(row / scale, np.float32)
    place = -min(row.min(), np.float32(0)) / scale - np.float32(limits[1]) / np.float32(2)

    def zeros(factor: NDArray[np.float32]) -> NDArray[np.float32]:
        if not asymmetric:
            return np.zeros_like(factor)
        moved = place * (np.float32(1) / factor) + np.float32(limits[1]) / np.float32(2)
        return np.rint(np.clip(moved, 0, limits[1]))

    def best(factor: NDArray[np.float32]) -> int:
        of = errors if x.size <= SHORT else long_errors
        return int(np.argmin(of(x, factor, zeros(factor), limits)))

    narrow = np.array(NARROW_ASYMMETRIC if asymmetric else NARROW, np.float32)
    if x.size > SHORT:
        wide = np.array(WIDE, np.float32)
        narrow = wide[best(wide)] * np.array(NARROW_LONG, np.float32)
    i = best(narrow)
    z = zeros(narrow)[i]
    code = np.clip(x * (np.float32(1) / narrow[i]), limits[0] - z, limits[1] - z)
    code = np.rint(code)
    cross, square = sixteen(x * code), sixteen(code * code)
    factor = np.float32(cross / square) if square > 0 else narrow[i]
    found = scale * factor
    return np.copysign(max(np.abs(found), np.finfo(np.float32).tiny), found), int(z)


def errors(
    x: NDArray[np.float32],
    factor: NDArray[np.float32],
    zero: NDArray[np.float32],
    limits: tuple[int, int],
) -> NDArray[np.float32]:
    """Sums of squared errors by candidate, in float32 in order."""
    sums, reciprocal = np.zeros(factor.size, np.float32), np.float32(1) / factor
    for value in x:
        code = np.rint(np.clip(value * reciprocal, limits[0] - zero, limits[1] - zero))
        error = value - code * factor
        sums += error * error
    return sums


def long_errors(
    x: NDArray[np.float32],
    factor: NDArray[np.float32],
    zero: NDArray[np.float32],
    limits: tuple[int, int],
) -> list[float]:
    """The same by sixteen sums within 1024 values and float64 beyond."""
    found = []
    for f, z in zip(factor, zero, strict=True):
        code = np.rint(np.clip(x * (np.float32(1) / f), limits[0] - z, limits[1] - z))
        error = x - code * f
        found.append(sixteen(error * error))
    return found


def sixteen(x: NDArray[np.float32]) -> float:
    """The sum by sixteen float32 sums of 1024 values, halved pairwise, and float64 beyond."""
    total = 0.0
    for start in range(0, x.size, CHUNK):
        part = x[start : start + CHUNK]
        sums = np.zeros(16, np.float32)
        for group in np.pad(part, (0, -part.size % 16)).reshape(-1, 16):
            sums += group
        while sums.size > 1:
            half = sums.size // 2
            sums = sums[:half] + sums[half:]
        total += float(sums[0])
    return total


def range_line(
    block: NDArray[np.float32], top: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and float zero points that turn the ranges along the last axis into 0 to `top`."""
    low, high = block.min(axis=-1), block.max(axis=-1)
    width = high.astype(np.float64) - low
    scale = np.where(width > 0, (width / top).astype(np.float32), np.abs(low))
    scale = np.where((width == 0) & (low == 0), np.float32(1), scale)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return scale, np.float32(0) - low / scale


def fit_line(
    row: NDArray[np.float32], scale: np.float32, zero: np.float32, top: int
) -> tuple[np.float32, np.float32]:
    """Integers and a straight line through them, fitted in turns to a block of values."""
    y = np.asarray(row / scale + zero, np.float32)
    fits = [_fit(y, np.float32(share), np.float32(top)) for share in (1, 0.9)]
    _, slope, offset = min(fits, key=lambda fit: fit[0])
    found = max(scale * slope, np.finfo(np.float32).tiny)
    return np.float32(found), np.float32((zero - offset) / slope)


def _fit(
    y: NDArray[np.float32], share: np.float32, top: np.float32
) -> tuple[float, np.float32, np.float32]:
    one, n = np.float32(1), y.size
    slope, gain, offset = share, one / share, top / np.float32(2) * (one - share)
    shift, total = -(offset * gain), in_order(y)
    for _ in range(3):
        code = np.rint(np.clip(y * gain + shift, 0, top))
        sums, square, cross = in_order(code), in_order(code * code), in_order(code * y)
        spread = n * square - sums * sums
        line = (n * cross - sums * total) / spread if spread > 0 else 0.0
        if line > 0:
            offset = np.float32((total - line * sums) / n)
            slope = np.float32(line)
            gain = one / slope
            shift = -(offset * gain)
    code = np.rint(np.clip(y * gain + shift, 0, top))
    lost = y - (code * slope + offset)
    return in_order(lost * lost), slope, offset


def in_order(x: NDArray[np.float32]) -> float:
    """The sum by float32 in order within 1024 values, and float64 beyond."""
    total = 0.0
    for start in range(0, x.size, CHUNK):
        # A cumulative sum adds one value after the other.
        total += float(np.cumsum(x[start : start + CHUNK], dtype=np.float32)[-1])
    return total
