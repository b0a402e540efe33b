"""Reading weights in few bits back from an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, numpy_helper

import lepton_kernels as lk
from lepton_onnx._block_numbers import Blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def read_blocks(model: ModelProto) -> dict[str, Blocks]:
    """Return the weights that MatMulNBits reads, by value name of the pivot.

    Args:
        model: A model that :func:`~lepton_onnx.qdq.lower` wrote, weights in memory.
    """
    constants = {t.name: t for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        numbers = {a.name: a.i for a in node.attribute}
        arrays = [numpy_helper.to_array(constants[n]) for n in node.input[1:] if n]
        name = node.input[1].rpartition("/")[0]
        found[name] = unpack(arrays, numbers["K"], numbers["bits"], numbers["block_size"])
    return found


def unpack(arrays: list[NDArray[Any]], inputs: int, width: int, block: int) -> Blocks:
    """Return integers from what MatMulNBits stores, the inverse of its packing.

    Args:
        arrays: Packed integers, scales, and packed zero points if there are any.
        inputs: Inputs of the product.
        width: Bits of a stored integer.
        block: Inputs that share a scale.
    """
    scale = arrays[1]
    outputs, blocks = arrays[0].shape[:2]
    scale = scale.reshape(outputs, blocks)
    full = lk.unpack_bits(arrays[0], width, block).reshape(outputs, blocks * block)
    codes = np.ascontiguousarray(full[:, :inputs])
    if len(arrays) < 3:
        half = 2 ** (width - 1)
        return Blocks((codes.astype(np.int16) - half).astype(np.int8), scale, None, block)
    packed = arrays[2].reshape(outputs, -1)
    return Blocks(codes, scale, lk.unpack_bits(packed, width, blocks), block)


def compare_blocks(wanted: Mapping[str, Blocks], stored: Mapping[str, Blocks]) -> list[str]:
    """Return every difference between two sets of weights; none means identical."""
    problems = [f"{name}: not stored in blocks" for name in wanted if name not in stored]
    for name, one in wanted.items():
        other = stored.get(name, one)
        if not np.array_equal(one.codes, other.codes):
            problems.append(f"{name}: other integers")
        if not np.array_equal(one.scale, other.scale):
            problems.append(f"{name}: other scales")
        zeros = (one.zero_point, other.zero_point)
        same = zeros[0] is zeros[1] or np.array_equal(*(np.asarray(z) for z in zeros))
        if not same:
            problems.append(f"{name}: other zero points")
    return problems


__all__ = ["compare_blocks", "read_blocks", "unpack"]
