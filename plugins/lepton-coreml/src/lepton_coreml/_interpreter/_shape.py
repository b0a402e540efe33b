"""Operators that move values or compute with shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[Any]
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _list(values: Any) -> list[int]:  # noqa: ANN401 - an array or a sequence
    return [int(v) for v in np.ravel(values)]


@operator("reshape")
def reshape(x: Array, shape: Array) -> Array:
    """Give another shape; 0 keeps a size, -1 takes what is left."""
    wanted = [x.shape[i] if n == 0 and x.size else n for i, n in enumerate(_list(shape))]
    return x.reshape(wanted)


@operator("transpose")
def transpose(x: Array, perm: Array) -> Array:
    """Change the order of axes."""
    return np.transpose(x, _list(perm))


@operator("expand_dims")
def expand_dims(x: Array, axes: Array) -> Array:
    """Insert axes of size 1."""
    return np.expand_dims(x, tuple(_list(axes)))


@operator("squeeze")
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Remove axes of size 1."""
    return np.squeeze(x, None if axes is None else tuple(_list(axes)))


@operator("flatten2d")
def flatten2d(x: Array, axis: Array = np.int32(1)) -> Array:
    """Make two axes: those before and those from *axis* on."""
    return x.reshape(int(np.prod(x.shape[: int(axis)], dtype=np.int64)), -1)


@operator("concat")
def concat(values: Sequence[Array], axis: Array, interleave: Array = np.False_) -> Array:
    """Join arrays along an axis, one after another or value by value."""
    if interleave:
        place = int(axis) % values[0].ndim
        stacked = np.stack(values, axis=place + 1)
        return stacked.reshape(*values[0].shape[:place], -1, *values[0].shape[place + 1 :])
    return np.concatenate([np.atleast_1d(v) for v in values], axis=int(axis))


@operator("stack")
def stack(values: Sequence[Array], axis: Array) -> Array:
    """Join arrays along a new axis."""
    return np.stack(values, axis=int(axis))


@operator("split")
def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Cut along an axis into equal parts, or parts of given sizes."""
    if split_sizes is not None:
        sizes = _list(split_sizes)
        if sum(sizes) != x.shape[int(axis)]:
            msg = f"parts of {sizes} do not make up {x.shape[int(axis)]}"
            raise ValueError(msg)
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=int(axis)))
    if num_splits is None:
        msg = "neither a number of parts nor their sizes are given"
        raise ValueError(msg)
    return tuple(np.split(x, int(num_splits), axis=int(axis)))


@operator("tile")
def tile(x: Array, reps: Array) -> Array:
    """Repeat along every axis."""
    return np.tile(x, _list(reps))


@operator("slice_by_index")
def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """Cut ranges as Python's slices do; masks open an end or take one place."""
    starts, stops = _list(begin), _list(end)
    steps = [1] * len(starts) if stride is None else _list(stride)
    opened, closed, single = (
        [False] * len(starts) if mask is None else [bool(m) for m in np.ravel(mask)]
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    index: list[Any] = []
    for axis, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if single[axis]:
            index.append(start)
        else:
            index.append(
                slice(None if opened[axis] else start, None if closed[axis] else stop, step)
            )
    return np.asarray(x[tuple(index)])


@operator("slice_by_size")
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """Cut a block of a given size; -1 reaches to the end."""
    index = []
    for start, count, whole in zip(_list(begin), _list(size), x.shape, strict=True):
        stop = whole if count == -1 else start + count
        if not 0 <= start <= stop <= whole:
            msg = f"{start} to {stop} leaves an axis of {whole}"
            raise ValueError(msg)
        index.append(slice(start, stop))
    return np.asarray(x[tuple(index)])


@operator("pad")
def pad(
    x: Array,
    pad: Array,
    mode: str = "constant",
    constant_val: Array = np.float32(0),
) -> Array:
    """Add values before and after the last axes."""
    given = _list(pad)
    pairs = list(zip(given[::2], given[1::2], strict=True))
    around = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, around, constant_values=constant_val)
    return np.pad(x, around, mode=_MODES[mode])  # type: ignore[call-overload, no-any-return]


@operator("reverse")
def reverse(x: Array, axes: Array | None = None) -> Array:
    """Turn the order along axes around."""
    return np.flip(x, None if axes is None else tuple(_list(axes)))


@operator("reverse_sequence")
def reverse_sequence(
    x: Array,
    lengths: Array,
    seq_axis: Array,
    batch_axis: Array = np.int32(0),
) -> Array:
    """Turn the first entries of each row around."""
    moved = np.moveaxis(x, (int(batch_axis), int(seq_axis)), (0, 1)).copy()
    for row, length in enumerate(_list(lengths)):
        moved[row, :length] = moved[row, :length][::-1].copy()
    return np.moveaxis(moved, (0, 1), (int(batch_axis), int(seq_axis)))


@operator("depth_to_space")
def depth_to_space(x: Array, block_size: Array) -> Array:
    """Move channels into squares, the square's place varying slowest among channels."""
    b = int(block_size)
    n, c, h, w = x.shape
    split = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // (b * b), h * b, w * b)


@operator("space_to_depth")
def space_to_depth(x: Array, block_size: Array) -> Array:
    """Undo :func:`depth_to_space`."""
    b = int(block_size)
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return split.reshape(n, c * b * b, h // b, w // b)


@operator("pixel_shuffle")
def pixel_shuffle(x: Array, upscale_factor: Array) -> Array:
    """Move channels into squares, the square's place varying fastest among channels."""
    b = int(upscale_factor)
    n, c, h, w = x.shape
    split = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return split.reshape(n, c // (b * b), h * b, w * b)


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Array, downscale_factor: Array) -> Array:
    """Undo :func:`pixel_shuffle`."""
    b = int(downscale_factor)
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 1, 3, 5, 2, 4)
    return split.reshape(n, c * b * b, h // b, w // b)


@operator("band_part")
def band_part(
    x: Array,
    lower: Array = np.int32(-1),
    upper: Array = np.int32(-1),
) -> Array:
    """Keep diagonals around the main one, -1 for all on that side."""
    rows, columns = np.indices(x.shape[-2:])
    low, high = int(lower), int(upper)
    kept = ((low < 0) | (rows - columns <= low)) & ((high < 0) | (columns - rows <= high))
    return np.where(kept, x, 0)


@operator("sliding_windows")
def sliding_windows(
    x: Array,
    axis: Array,
    size: Array,
    stride: Array = np.int32(1),
) -> Array:
    """Replace an axis by windows on it and, behind, the values of each."""
    place = int(axis) % x.ndim
    view = np.lib.stride_tricks.sliding_window_view(x, int(size), axis=place)
    view = np.moveaxis(view, -1, place + 1)
    return np.take(view, np.arange(0, view.shape[place], int(stride)), axis=place)


@operator("crop")
def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Cut rows and columns off the last two axes."""
    (top, bottom), (left, right) = _list(crop_height), _list(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("shape")
def shape(x: Array) -> Array:
    """Return the sizes as int32."""
    return np.asarray(np.shape(x), np.int32)


@operator("fill")
def fill(shape: Array, value: Array = np.float32(0)) -> Array:
    """Return one value in a shape."""
    return np.full(_list(shape), value)


@operator("fill_like")
def fill_like(ref_tensor: Array, value: Array = np.float32(0)) -> Array:
    """Return one value in the shape of another array."""
    return np.full(np.shape(ref_tensor), value)


@operator("range_1d")
def range_1d(end: Array, start: Array, step: Array) -> Array:
    """Return start, start + step, … below end."""
    return np.arange(start, end, step)


@operator("one_hot")
def one_hot(
    indices: Array,
    one_hot_vector_size: Array,
    axis: Array = np.int32(-1),
    on_value: Array = np.int32(1),
    off_value: Array = np.int32(0),
    dtype: str = "",
) -> Array:
    """Return a new axis with one value where the index says, another elsewhere."""
    del dtype  # the declared type of the output says the same
    places = np.arange(int(one_hot_vector_size))
    hit = np.expand_dims(indices, -1) == places
    return np.moveaxis(np.where(hit, on_value, off_value), -1, int(axis))


@operator("non_zero")
def non_zero(x: Array) -> Array:
    """Return the places of values that are not zero, a row each."""
    return np.argwhere(x).astype(np.int32)


@operator("cumsum")
def cumsum(
    x: Array,
    axis: Array = np.int32(0),
    exclusive: Array = np.False_,
    reverse: Array = np.False_,
) -> Array:
    """Return running sums along an axis, with or without the value itself."""
    place = int(axis)
    turned = np.flip(x, place) if reverse else x
    sums = np.cumsum(turned, axis=place, dtype=x.dtype)
    if exclusive:
        sums = sums - turned
    return np.flip(sums, place) if reverse else sums


__all__ = ["depth_to_space", "pad", "reshape"]
