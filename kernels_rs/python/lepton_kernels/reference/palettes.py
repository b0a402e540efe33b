"""Palettes and streams of bits, said in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def palette_error(x: NDArray[Any], entries: int) -> float:
    """The least sum of squared errors of any palette, by dynamic programming over all values."""
    values, weights = np.unique(np.asarray(x, np.float64), return_counts=True)
    n = values.size

    def costs(to: int) -> NDArray[np.float64]:
        """Of one cluster from each earlier point up to this one.

        Sums run backwards from here, over distances from here: what lies before a cluster, however
        far out, takes no digits from it.
        """
        weight, distance = weights[:to][::-1], values[:to][::-1] - values[to - 1]
        w, s, q = (
            np.cumsum(part)[::-1] for part in (weight, weight * distance, weight * distance**2)
        )
        return np.asarray(np.maximum(q - s * s / w, 0), np.float64)

    best = np.array([0.0] + [costs(to)[0] for to in range(1, n + 1)])
    for _ in range(min(entries, n) - 1):
        best = np.array([0.0] + [np.min(best[:to] + costs(to)) for to in range(1, n + 1)])
    return float(best[n])


def nearest(x: NDArray[Any], palette: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The index of the nearest entry of an ascending palette, of two equally near ones the lower.

    Compared with the midpoints and not by distances, which float64 rounds to equal numbers where
    two entries are much nearer to each other than to the value.
    """
    entries = palette.astype(np.float64)
    midpoints = (entries[:-1] + entries[1:]) / 2
    return np.searchsorted(midpoints, np.asarray(x, np.float64)).astype(np.uint8)


def depalettize(
    indices: NDArray[Any],
    palette: NDArray[np.float32],
    axis: int | None = None,
    group_size: int | None = None,
) -> NDArray[np.float32]:
    """The entry of every index, each in the palette of its group of channels."""
    values = np.zeros(np.shape(indices), np.float32)
    for place in np.ndindex(values.shape):
        entries = palette
        if axis is not None:
            size = values.shape[axis] if group_size is None else group_size
            entries = palette[place[axis] // size]
        values[place] = entries[indices[place]]
    return values


def pack_bits(
    codes: NDArray[Any], bits: int, offset: int = 0, order: str = "low"
) -> NDArray[np.uint8]:
    """A stream of bits along the last axis, by NumPy's own packing of single bits."""
    shifted = ((codes.astype(np.int64) + offset) % 2**bits).astype(np.uint8)
    single = np.unpackbits(shifted[..., None], axis=-1, bitorder="little")[..., :bits]
    single = single if order == "low" else single[..., ::-1]
    stream = single.reshape(*codes.shape[:-1], codes.shape[-1] * bits)
    return np.packbits(stream, axis=-1, bitorder="little" if order == "low" else "big")


def unpack_bits(
    packed: NDArray[np.uint8],
    bits: int,
    length: int,
    *,
    signed: bool,
    offset: int = 0,
    order: str = "low",
) -> NDArray[np.int32]:
    """The integers of `pack_bits`, `length` of them in a row."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little" if order == "low" else "big")
    single = stream[..., : length * bits].reshape(*packed.shape[:-1], length, bits)
    weights = 1 << np.arange(bits) if order == "low" else 1 << np.arange(bits)[::-1]
    codes = (np.sum(single * weights, axis=-1) - offset) % 2**bits
    half = 2 ** (bits - 1)
    return np.asarray(np.where(signed & (codes >= half), codes - 2 * half, codes), np.int32)
