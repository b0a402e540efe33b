"""Palettization: every weight becomes the index of one of a few values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_count,
    check_threads,
    normalise_axis,
    output_array,
    real_array,
)
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Palettized(NamedTuple):
    """The outcome of `palettize`.

    Attributes:
        indices: uint8 of the shape of the input.
        palette: float32, ascending, of shape ``(2 ** bits,)``, or ``(groups, 2 ** bits)`` with an
            axis; where there are fewer distinct values, the last entry fills up the rest.
        squared_error: The sum of squared errors over all values, in float64.
    """

    indices: NDArray[np.uint8]
    palette: NDArray[np.float32]
    squared_error: float


def palettize(
    x: ArrayLike,
    bits: int,
    *,
    axis: int | None = None,
    group_size: int | None = None,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> Palettized:
    """Finds the palette of least squared error, and the index of its nearest entry for each value.

    One-dimensional k-means: exact for up to 4096 distinct values (of up to 65536 values, or of
    float16 and bfloat16); otherwise the exact solution over 4096 groups of cells, refined over
    cells of a relative width of 2^-11 by Lloyd's iteration.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides, finite.
        bits: 1 to 8; the palette has ``2 ** bits`` entries.
        axis: None for one palette; an axis for one palette for every group of its channels.
        group_size: Channels that share a palette, the last group may have fewer; None for all of
            them (with an axis: one group of all).
        out: A C-contiguous uint8 array of the shape of `x`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        Indices, palettes and the squared error.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: There is no value, a value is NaN or infinite, or a number, `axis` or `out`
            does not fit.
    """
    values = np.asarray(x)
    bits = check_count("bits", bits, 1)
    if bits > 8:
        raise KernelError(f"bits is {bits}; accepted are 1 to 8")
    axis = _group_axis(axis, group_size, values.ndim)
    count = check_threads(threads)
    indices = output_array(out, values.shape, "uint8", values)
    if axis is None:
        palette, error = _group(values, indices, bits, count)
        return Palettized(indices, palette, error)
    channels = values.shape[axis]
    size = channels if group_size is None else check_count("group_size", group_size, 1)
    moved, moved_indices = np.moveaxis(values, axis, 0), np.moveaxis(indices, axis, 0)
    palettes, error = [], 0.0
    for start in range(0, channels, max(size, 1)):
        part = slice(start, start + size)
        palette, group_error = _group(moved[part], moved_indices[part], bits, count)
        palettes.append(palette)
        error += group_error
    if not palettes:
        return Palettized(indices, np.empty((0, 2**bits), np.float32), 0.0)
    return Palettized(indices, np.stack(palettes), error)


def _group_axis(axis: int | None, group_size: int | None, ndim: int) -> int | None:
    """The axis of the channels that `group_size` counts, from the front."""
    if axis is None and group_size is not None:
        raise KernelError("group_size counts channels; name their axis")
    return normalise_axis(axis, ndim)


def _group(
    values: NDArray[Any], indices: NDArray[np.uint8], bits: int, threads: int | None
) -> tuple[NDArray[np.float32], float]:
    """Palettizes values into a part of the output, which need not be contiguous."""
    entries = np.array(_native.palette(values, 2**bits, threads), np.float32)
    target = indices if indices.flags.c_contiguous else np.empty(indices.shape, np.uint8)
    error = _native.palette_indices(values, entries, target, threads)
    if target is not indices:
        indices[...] = target
    full = np.full(2**bits, entries[-1], np.float32)
    full[: entries.size] = entries
    return full, error


def depalettize(
    indices: ArrayLike,
    palette: ArrayLike,
    *,
    axis: int | None = None,
    group_size: int | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The values that the indices of `palettize` stand for.

    Args:
        indices: Integers of any shape.
        palette: What `palettize` returned: ``(entries,)``, or ``(groups, entries)`` with an axis;
            used as float32.
        axis: As for `palettize`.
        group_size: As for `palettize`.
        out: A C-contiguous float32 array of the shape of `indices`, which is filled and returned.

    Returns:
        float32 values of the shape of `indices`.

    Raises:
        KernelTypeError: Indices are no integers, or entries no real numbers.
        KernelError: The shape of the palette, `axis`, `group_size` or `out` does not fit, or an
            index is beyond the palette.
    """
    places, given = np.asarray(indices), np.asarray(palette)
    with np.errstate(over="ignore"):
        table = real_array("palette", given).astype(np.float32)
    axis = _group_axis(axis, group_size, places.ndim)
    channels = 1 if axis is None else places.shape[axis]
    size = channels if group_size is None else check_count("group_size", group_size, 1)
    groups = -(-channels // size) if size else 0
    if places.dtype.kind not in "iu":
        raise KernelTypeError(f"indices must be integers, got dtype {places.dtype}")
    if table.ndim == 0 or table.shape[:-1] != (() if axis is None else (groups,)):
        raise KernelError(
            f"palette has shape {table.shape}; for {groups} groups of channels it must be "
            f"{'(entries,)' if axis is None else f'({groups}, entries)'}"
        )
    if places.size and not 0 <= places.min() <= places.max() < table.shape[-1]:
        raise KernelError(
            f"indices from {places.min()} to {places.max()} leave a palette of {table.shape[-1]}"
        )
    values = output_array(out, places.shape, "float32", places, given)
    chosen = places.astype(np.intp, copy=False)
    if axis is None:
        return np.take(table, chosen, out=values, mode="clip")  # all are within
    group = np.arange(channels) // max(size, 1)
    shape = [1] * places.ndim
    shape[axis] = channels
    chosen = chosen + group.reshape(shape) * table.shape[-1]
    return np.take(table.reshape(-1), chosen, out=values, mode="clip")
