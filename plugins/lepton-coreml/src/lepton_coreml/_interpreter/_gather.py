"""Reading and writing by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


def _checked(indices: Array, size: int) -> Array:
    """Return indices with negative ones counted from the end.

    Raises:
        IndexError: One is out of range, where a device would return anything.
    """
    wide = np.asarray(indices).astype(np.int64)
    if wide.size and (wide.min() < -size or wide.max() >= size):
        msg = f"an index of {wide.min()} to {wide.max()} is out of range for {size} entries"
        raise IndexError(msg)
    return np.where(wide < 0, wide + size, wide)


@operator("gather")
def gather(
    x: Array,
    indices: Array,
    axis: Array = np.int32(0),
    batch_dims: Array = np.int32(0),
    validate_indices: Array = np.False_,
) -> Array:
    """Take slices along an axis."""
    del validate_indices  # always done here
    place, shared = int(axis) % x.ndim, int(batch_dims)
    chosen = _checked(indices, x.shape[place])
    if not shared:
        return np.take(x, chosen, axis=place)
    outer = x.shape[:shared]
    rows = [np.take(x[i], chosen[i], axis=place - shared) for i in np.ndindex(*outer)]
    return np.stack(rows).reshape(*outer, *rows[0].shape)


@operator("gather_along_axis")
def gather_along_axis(
    x: Array,
    indices: Array,
    axis: Array = np.int32(0),
    validate_indices: Array = np.False_,
) -> Array:
    """Take single values along an axis."""
    del validate_indices
    place = int(axis) % x.ndim
    chosen = _checked(indices, x.shape[place])
    wide = [c if i == place else n for i, (c, n) in enumerate(zip(
        chosen.shape, x.shape, strict=True))]  # fmt: skip
    return np.take_along_axis(x, np.broadcast_to(chosen, wide), axis=place)


@operator("gather_nd")
def gather_nd(
    x: Array,
    indices: Array,
    batch_dims: Array = np.int32(0),
    validate_indices: Array = np.False_,
) -> Array:
    """Take slices whose places stand in the last axis of the indices."""
    del validate_indices
    shared = int(batch_dims)
    depth = indices.shape[-1]
    columns = [_checked(indices[..., i], x.shape[shared + i]) for i in range(depth)]
    if not shared:
        return np.asarray(x[tuple(columns)])
    outer = x.shape[:shared]
    rows = [x[i][tuple(c[i] for c in columns)] for i in np.ndindex(*outer)]
    return np.stack(rows).reshape(*outer, *np.shape(rows[0]))


_REDUCE: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def _write(data: Array, index: tuple[Any, ...], updates: Array, mode: str) -> Array:
    result = np.array(data)
    if mode == "update":
        result[index] = updates
    else:
        _REDUCE[mode].at(result, index, updates)
    return result


@operator("scatter")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array = np.int32(0),
    mode: str = "add",
    validate_indices: Array = np.False_,
) -> Array:
    """Write slices along an axis."""
    del validate_indices
    place = int(axis) % data.ndim
    chosen = _checked(indices, data.shape[place])
    return _write(data, (*[slice(None)] * place, chosen), updates, mode)


@operator("scatter_along_axis")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array = np.int32(0),
    mode: str = "add",
    validate_indices: Array = np.False_,
) -> Array:
    """Write single values along an axis."""
    del validate_indices
    place = int(axis) % data.ndim
    chosen = _checked(indices, data.shape[place])
    index = list(np.indices(chosen.shape, sparse=True))
    index[place] = chosen
    return _write(data, tuple(index), updates, mode)


@operator("scatter_nd")
def scatter_nd(
    data: Array,
    indices: Array,
    updates: Array,
    mode: str = "add",
    validate_indices: Array = np.False_,
) -> Array:
    """Write slices whose places stand in the last axis of the indices."""
    del validate_indices
    depth = indices.shape[-1]
    columns = tuple(_checked(indices[..., i], data.shape[i]) for i in range(depth))
    return _write(data, columns, updates, mode)


__all__ = ["gather"]
