"""Reading integers, scales and zero points back from an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from lepton_onnx._protobuf import walk_nodes
from lepton_onnx._restored import channel_axis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import Recipe

_QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
    "QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "MatMulNBits", "DynamicQuantizeLSTM",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FakeQuantize", "QAttention",
    "MatMulBnb4", "GatherBlockQuantized",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file stores one value or weight.

    Attributes:
        scale: float32 scales, ``()`` or ``(channels,)``.
        zero_point: Zero points of the same shape; zeros where the file names none. Those of uint8
            values are given as for int8, 128 less.
        axis: Channel axis, ``None`` for one scale.
        integers: The weight's integers; ``None`` for an activation.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None
    integers: NDArray[Any] | None


def is_quantized(model: ModelProto) -> str:
    """Return the first quantized operator of a model as ``"operator at name"``, or nothing."""
    for node in walk_nodes(model):
        if node.op_type in _QUANTIZED:
            return f"{node.op_type} at {node.name or node.output[0]!r}"
    return ""


def read_back(model: ModelProto) -> dict[str, Stored]:
    """Return how a lowered model stores values and weights, by value name of the pivot.

    Args:
        model: A model that :func:`~lepton_onnx.qdq.lower` wrote, weights in memory.

    Returns:
        Weights with integers, activations without; biases are found as ``"<layer>/bias"``.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found: dict[str, Stored] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            source = node.input[0]
            name = source
            for suffix in ("/int8", "/uint8", "/int16", "/int32"):
                name = name.removesuffix(suffix)
            if name != source:
                found.setdefault(name, _stored(node, constants, constants.get(source)))
    for source, codes in constants.items():
        name = source.removesuffix("/int8")
        if name != source and name not in found:
            found[name] = _restored(name, codes, constants)
    return found


def _stored(node: NodeProto, constants: Mapping[str, Any], codes: Any) -> Stored:  # noqa: ANN401
    scale = constants[node.input[1]]
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.int32)
    if zero.dtype == np.uint8:  # the same integers plus 128
        zero = zero.astype(np.int16) - 128
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    return Stored(scale, zero, axis if scale.ndim else None, codes)


def _restored(name: str, codes: Any, constants: Mapping[str, Any]) -> Stored:  # noqa: ANN401
    """Return a weight that a Cast and a Mul restore, or that is read as integers."""
    scale = constants.get(f"{name}/scale")
    axis = None
    if scale is None:
        shaped = constants[f"{name}/weight_scale"]
        axis = channel_axis(shaped)
        scale = shaped.reshape(-1) if shaped.ndim else shaped
    return Stored(scale, np.zeros(scale.shape, np.int8), axis, codes)


def compare(
    recipe: Recipe,
    stored: Mapping[str, Stored],
    integers: Mapping[str, NDArray[np.int8]],
) -> list[str]:
    """Return every difference between a recipe and what a file stores; none means identical.

    Args:
        recipe: The recipe.
        stored: What :func:`read_back`, or another target's reader, found.
        integers: The integers that each weight must have, by name.
    """
    problems = []
    for name, has in stored.items():
        wanted = recipe.tensors.get(name)
        if wanted is None:
            continue
        scale = np.asarray(wanted.scale, np.float32)
        if not np.array_equal(scale, has.scale):
            problems.append(f"{name}: scale {has.scale} instead of {scale}")
        if not (np.asarray(has.zero_point) == wanted.zero_point).all():
            problems.append(f"{name}: zero point {has.zero_point} instead of {wanted.zero_point}")
        if wanted.kind == "weight" and not np.array_equal(integers[name], has.integers):
            problems.append(f"{name}: other integers")
    missing = [n for n, t in recipe.tensors.items() if t.kind == "weight" and n not in stored]
    return [*problems, *(f"{name}: not stored as integers" for name in missing)]


__all__ = ["Stored", "compare", "is_quantized", "read_back"]
