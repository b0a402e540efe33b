"""What ONNX Runtime's CPU kernels compute with integers."""

from __future__ import annotations

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators whose Q/DQ groups ONNX Runtime turns into integer kernels on a CPU.

Activations stand as uint8 in the file: ONNX Runtime's own change from int8 skips values with
several readers, which then stay float.
"""

__all__ = ["INTEGER_OPS"]
