"""What ONNX Runtime loads and cannot run: found before it is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.types import Signature, TensorSpec

_PASSABLE = frozenset(
    {
        "float16", "float32", "float64", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "bool", "string", "sequence", "optional", "map",
    }
)  # fmt: skip
"""Kinds that the runtime takes from NumPy and gives to it; the others it has for values inside."""


def unsupported(signature: Signature | None) -> list[TensorSpec]:
    """Return the inputs and outputs that a session cannot pass."""
    if signature is None:
        return []
    return [s for s in (*signature.inputs, *signature.outputs) if s.dtype not in _PASSABLE]


def check_ports(signature: Signature) -> None:
    """Refuse inputs and outputs that a session cannot pass.

    Raises:
        ConversionError: LPT-CONV-215.
    """
    wrong = unsupported(signature)
    if wrong:
        raise ConversionError(
            "LPT-CONV-215",
            f"{wrong[0]} is of a kind that ONNX Runtime's session cannot pass",
            cause="NumPy has no such type, and sessions pass NumPy's arrays.",
            remedy="Put a Cast behind the input or before the output.",
        )


def check_nodes(proto: ModelProto) -> None:
    """Refuse a ConvInteger whose weight has several zero points, which no kernel takes.

    Raises:
        ConversionError: LPT-CONV-216.
    """
    sizes = {t.name: math.prod(t.dims) for t in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.value_info):
        sizes[value.name] = math.prod(d.dim_value for d in value.type.tensor_type.shape.dim)
    for node in proto.graph.node:
        if node.op_type == "ConvInteger" and sizes.get((*node.input, "", "")[3], 1) > 1:
            place = node.name or node.output[0]
            raise ConversionError(
                "LPT-CONV-216",
                f"ONNX Runtime cannot run ConvInteger at node {place!r}",
                cause="Its weight has a zero point for each output; the kernel takes one for all.",
                remedy="Quantize the weight symmetrically, or choose another target.",
                details={"operator": "ConvInteger", "where": place},
            )


__all__ = ["check_nodes", "check_ports", "unsupported"]
