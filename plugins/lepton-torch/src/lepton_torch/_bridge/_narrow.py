"""Types of less than a byte: which values have one, and what they stand in.

Torch computes with none of them. Their values stand in a wider type that holds each of them: whole
numbers of four and two bits in bytes, float4 in float8. Where ONNX tells by the type of an input
what comes out, as ``QuantizeLinear`` and ``CastLike`` do, the type is written into the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto

from lepton_torch._bridge._values import to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

_UINT2, _INT2 = 25, 26  # by number: older releases of onnx do not name them
STANDS_IN: dict[int, torch.dtype] = {
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT4: torch.int8,
    TensorProto.FLOAT4E2M1: torch.float8_e4m3fn,
    _UINT2: torch.uint8,
    _INT2: torch.int8,
}
"""The type that holds the values of a narrow type, by ONNX's number."""

NAMES: dict[str, int] = {
    "uint4": TensorProto.UINT4,
    "int4": TensorProto.INT4,
    "float4e2m1": TensorProto.FLOAT4E2M1,
    "uint2": _UINT2,
    "int2": _INT2,
}
"""ONNX's numbers of the narrow types by name."""

RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    _UINT2: (0, 3),
    _INT2: (-2, 1),
}
"""Smallest and largest value of the whole numbers among them."""

_MOVING = {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze", "Pad", "DepthToSpace", "SpaceToDepth", "GatherElements"),
    "GatherND",
}
"""Operators whose results have the type of their first input."""


def to_narrow(x: torch.Tensor, kind: int) -> torch.Tensor:
    """Convert to a narrow type, standing in its wider one.

    Whole numbers keep their low bits; floats are cut to whole numbers first. Float4 is the nearest,
    ties to even, with values beyond the range at its end and NaN as zero.

    Args:
        x: Numbers of any type.
        kind: ONNX's number of the type.
    """
    if kind == TensorProto.FLOAT4E2M1:
        wide = torch.nan_to_num(x.float(), nan=0.0).clamp(-6.0, 6.0)
        size = wide.abs()
        step = torch.where(size < 2.0, 0.5, torch.where(size < 4.0, 1.0, 2.0))
        return (torch.round(wide / step) * step).to(torch.float8_e4m3fn)
    low, high = RANGES[kind]
    bits = torch.bitwise_and(x.to(torch.int32), high - low)
    if low:
        bits = torch.bitwise_xor(bits, -low) + low
    return bits.to(STANDS_IN[kind])


def bits_of(kind: int) -> int:
    """Return how many bits a narrow type has."""
    return 2 if kind in (_UINT2, _INT2) else 4


def widened(array: np.ndarray, kind: int) -> np.ndarray:
    """Return an array of a narrow type in the type that its values stand in."""
    own = to_numpy(torch.empty(0, dtype=STANDS_IN[kind])).dtype
    return array.astype(np.float32).astype(own)  # float32 holds the values of all of them


class Narrow:
    """The names of a graph's values that have a narrow type."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Follow the types from constants and inputs through the graph."""
        self.kinds: dict[str, int] = {
            **{t.name: t.data_type for t in graph.initializer if t.data_type in STANDS_IN},
            **{name: kind for name, kind in _declared(graph) if kind in STANDS_IN},
        }
        for node in graph.node:
            kind = self.made_by(node)
            if kind:
                self.kinds.update(dict.fromkeys(filter(None, node.output), kind))

    def made_by(self, node: onnx.NodeProto) -> int:
        """Return the narrow type that a node makes; 0 if it makes none."""
        own = {a.name: a.i for a in node.attribute if a.name in ("to", "output_dtype")}
        asked = own.get("to" if node.op_type == "Cast" else "output_dtype", 0)
        places = {"CastLike": 1, "QuantizeLinear": 2, "Constant": None}
        place = places.get(node.op_type, 0 if node.op_type in _MOVING else None)
        if node.op_type in ("Cast", "QuantizeLinear") and asked:
            return asked if asked in STANDS_IN else 0
        if node.op_type == "Constant":
            held = [a.t.data_type for a in node.attribute if a.name == "value"]
            return next((k for k in held if k in STANDS_IN), 0)
        if place is None or place >= len(node.input):
            return 0
        return self.kinds.get(node.input[place], 0)


def _declared(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    for value in (*graph.input, *graph.output):
        yield value.name, value.type.tensor_type.elem_type


__all__ = ["NAMES", "RANGES", "STANDS_IN", "Narrow", "bits_of", "to_narrow", "widened"]
