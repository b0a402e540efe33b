"""Finding again what :func:`lepton_onnx.qdq.lower` wrote where operators take a weight as floats.

Targets whose converters would fold these forms write them in one of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import NodeProto, TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_INTEGERS = "/int8"


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A weight that a Cast and a Mul restore from integers.

    Attributes:
        name: Its name in the pivot.
        codes: The int8 initializer.
        scale: float32, ``()`` or ``(channels,)``.
        axis: Channel axis, ``None`` for one scale.
    """

    name: str
    codes: str
    scale: NDArray[Any]
    axis: int | None


def restored_weight(
    node: NodeProto, made_by: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]
) -> Restored | None:
    """Return the weight that a node restores as the last of two; ``None`` if it does not.

    Args:
        node: A node of a lowered graph.
        made_by: The graph's nodes by the values that they yield.
        constants: Its initializers by name.
    """
    if node.op_type != "Mul" or len(node.input) != 2 or node.input[1] not in constants:
        return None
    cast = made_by.get(node.input[0])
    codes = cast.input[0] if cast is not None and cast.op_type == "Cast" else ""
    if codes not in constants or not codes.endswith(_INTEGERS):
        return None
    shaped = numpy_helper.to_array(constants[node.input[1]])
    axis = channel_axis(shaped)
    scale = shaped.reshape(()) if axis is None else shaped.reshape(-1)
    return Restored(codes.removesuffix(_INTEGERS), codes, scale, axis)


def channel_axis(scale: NDArray[Any]) -> int | None:
    """Return the axis that the scales which a Mul reads lie along; ``None`` for one scale."""
    return next((i for i, size in enumerate(scale.shape) if size > 1), None)


def reads_table(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Tell whether a node looks rows of integers up, which are restored behind it."""
    return (
        node.op_type == "Gather"
        and node.input[0] in constants
        and node.input[0].endswith(_INTEGERS)
    )


__all__ = ["Restored", "channel_axis", "reads_table", "restored_weight"]
