"""The search for a scale of least squared error, said in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDE = [1, 0.84, 0.71, 0.59, 0.5, 0.42, 0.35, 0.3, 0.25, 0.21, 0.177, 0.149, 0.125, 0.105]
WIDE += [0.088, 0.074]
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
        return int(np.argmin(errors(x, factor, zeros(factor), limits)))

    middle = np.float32(1)
    if x.size > SHORT:
        wide = np.array(WIDE, np.float32)
        middle = wide[best(wide)]
    narrow = middle * np.array(NARROW_ASYMMETRIC if asymmetric else NARROW, np.float32)
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
) -> NDArray[np.float64]:
    """Sums of squared errors by candidate: float32 within 1024 values, float64 beyond."""
    total = np.zeros(factor.size, np.float64)
    reciprocal = np.float32(1) / factor
    for start in range(0, x.size, CHUNK):
        sums = np.zeros(factor.size, np.float32)
        for value in x[start : start + CHUNK]:
            code = np.rint(np.clip(value * reciprocal, limits[0] - zero, limits[1] - zero))
            error = value - code * factor
            sums += error * error
        total += sums
    return total


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
