"""What ONNX Runtime's CPU kernels compute with integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators whose Q/DQ groups ONNX Runtime turns into integer kernels on a CPU.

Activations stand as uint8 in the file: ONNX Runtime's own change from int8 skips values with
several readers, which then stay float.
"""


def separate_weights(proto: ModelProto) -> int:
    """Give each reader of an int8 weight that several products share its own copy, in place.

    On a CPU without VNNI, ONNX Runtime 1.32 changes int8 weights of products to uint8, and refuses
    a model in which it meets one twice ("Attempt to replace the existing tensor").

    Returns:
        How many copies were added.
    """
    stored = {t.name: t for t in proto.graph.initializer}
    seen: dict[str, int] = {}
    added = 0
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or not _is_int8(stored.get(node.input[0])):
            continue
        name = node.input[0]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] == 1:
            continue
        for place in (0, 2):
            if place < len(node.input):
                node.input[place] = _copied(proto, stored[node.input[place]], seen[name])
        added += 1
    return added


def _copied(proto: ModelProto, tensor: TensorProto, number: int) -> str:
    copy = proto.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = f"{tensor.name}_{number}"
    return copy.name


def _is_int8(tensor: TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == tensor.INT8 and len(tensor.dims) > 1


__all__ = ["INTEGER_OPS", "separate_weights"]
