"""Reading pruned weights and palettes back from an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, numpy_helper

import lepton_kernels as lk

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_palettes(
    model: ModelProto,
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Return indices and tables of the weights that a file stores so, by value name of the pivot.

    Args:
        model: A model that :func:`~lepton_onnx.qdq.lower` wrote, weights in memory.

    Returns:
        Indices as uint8 in the weight's shape, and float32 tables of shape ``(groups, entries)``;
        entries that only fill up a table of 4 or 8 bits are 0.
    """
    constants = {t.name: t for t in model.graph.initializer}
    moved = {
        node.output[0]: list(attribute.ints)
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Transpose" and attribute.name == "perm"
    }
    found = {}
    for key in constants:
        name = key.removesuffix("/codes")
        if name == key or f"{name}/palette" not in constants:
            continue
        codes, tables, shape, inner = (
            numpy_helper.to_array(constants[f"{name}/{part}"])
            for part in ("codes", "palette", "shape", "inner")
        )
        width = int(np.log2(tables.shape[1]))
        indices = lk.unpack_bits(codes, width, int(inner[0])).reshape(shape)
        if name in moved:
            indices = np.ascontiguousarray(indices.transpose(moved[name]))
        found[name] = (indices, tables.astype(np.float32))
    return found


def read_sparse(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return the initializers that a file stores as bits and values, whole, by their name.

    Args:
        model: A model that :func:`~lepton_onnx.qdq.lower` wrote, weights in memory.
    """
    constants = {t.name: t for t in model.graph.initializer}
    found = {}
    for key in constants:
        name = key.removesuffix("/mask")
        if name == key or f"{name}/values" not in constants:
            continue
        packed, values, shape = (
            numpy_helper.to_array(constants[f"{name}/{part}"])
            for part in ("mask", "values", "shape")
        )
        size = int(np.prod(shape))
        mask = np.unpackbits(packed, bitorder="little")[:size].astype(bool)
        whole = np.zeros(size, values.dtype)
        whole[mask] = values[1:]
        found[name] = whole.reshape(shape)
    return found


__all__ = ["read_palettes", "read_sparse"]
