"""Constants that are stored compressed (``constexpr_*``), in the forms of iOS 16 and iOS 18."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._elementwise import DTYPES
from lepton_coreml._interpreter._quantization import along
from lepton_coreml._interpreter._registry import operator
from lepton_coreml._mil._types import unpack

Array = NDArray[Any]
_BITS = {2: "uint1", 4: "uint2", 8: "uint3", 16: "uint4", 64: "uint6"}


@operator("constexpr_affine_dequantize")
def constexpr_affine_dequantize(
    quantized_data: Array, zero_point: Array, scale: Array, axis: Array
) -> Array:
    """Return scale (integer - zero point), one of each or one for each slice along an axis."""
    ndim = quantized_data.ndim
    zero = along(zero_point, axis, ndim).astype(np.float32)
    return (quantized_data.astype(np.float32) - zero) * along(scale, axis, ndim)


def spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat scales, offsets or tables so that each block of *shape* has its own."""
    for axis, (have, want) in enumerate(zip(values.shape, shape, strict=False)):
        if not have or want % have:
            msg = f"{have} blocks do not divide {want} values along axis {axis}"
            raise ValueError(msg)
        if have != want:
            values = np.repeat(values, want // have, axis=axis)
    return values


@operator("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(
    data: Array, scale: Array, offset: Array | None = None
) -> Array:
    """Return scale (data - offset) with a scale, and an offset, for each block."""
    if scale.ndim != data.ndim:
        msg = f"scales of {scale.ndim} axes for data of {data.ndim}"
        raise ValueError(msg)
    values = data.astype(np.float32)
    if offset is not None:
        values = values - spread(offset, data.shape).astype(np.float32)
    return values * spread(scale, data.shape)


@operator("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Array,
    lut: Array,
    shape: Array | None = None,
    vector_axis: Array | None = None,
) -> Array:
    """Return what the indices point to in their palette.

    In iOS 16's form the indices are packed bytes and *shape* is given; in iOS 18's there is a
    palette for each block, of single values or of vectors laid along an axis.
    """
    if shape is not None:
        dims = [int(d) for d in np.ravel(shape)]
        count = int(np.prod(dims, dtype=np.int64))
        wide = indices if lut.size == 256 else unpack(indices, _BITS[lut.size], count)
        return lut[wide].reshape(dims)
    entries, width = lut.shape[-2:]
    if indices.size and indices.max() >= entries:
        msg = f"an index of {indices.max()} in a palette of {entries}"
        raise IndexError(msg)
    tables = spread(lut, indices.shape)
    index = indices[..., None, None].astype(np.int64)
    vectors = np.take_along_axis(tables, np.broadcast_to(index, (*indices.shape, 1, width)), -2)
    vectors = vectors[..., 0, :]
    if width == 1 or vector_axis is None:
        return vectors[..., 0]
    axis = int(vector_axis) % indices.ndim
    laid = np.moveaxis(vectors, -1, axis + 1)
    return laid.reshape([n * width if i == axis else n for i, n in enumerate(indices.shape)])


@operator("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(
    nonzero_data: Array, mask: Array, shape: Array | None = None
) -> Array:
    """Return values at the places that a mask marks, zeros elsewhere."""
    if shape is not None:
        dims = [int(d) for d in np.ravel(shape)]
        mask = unpack(mask, "uint1", int(np.prod(dims, dtype=np.int64))).reshape(dims)
    marked = mask != 0
    if int(np.count_nonzero(marked)) != nonzero_data.size:
        msg = f"{np.count_nonzero(marked)} places for {nonzero_data.size} values"
        raise ValueError(msg)
    result = np.zeros(mask.shape, nonzero_data.dtype)
    result[marked] = nonzero_data
    return result


@operator("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Array,
    indices_nonzero_data: Array,
    lut: Array,
    vector_axis: Array | None = None,
) -> tuple[Array, Array]:
    """Return the mask, and what the indices of its places point to."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask
    if vector_axis is not None and lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], axis=int(vector_axis))
    return mask, dense[mask != 0]


@operator("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """Return the mask, and scale (data - offset) of its places."""
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, constexpr_blockwise_shift_scale(dense, scale, offset)[data_mask != 0]


@operator("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """Convert the element type of a constant."""
    return source_val.astype(DTYPES[output_dtype])


__all__ = ["constexpr_blockwise_shift_scale", "constexpr_lut_to_dense", "spread"]
