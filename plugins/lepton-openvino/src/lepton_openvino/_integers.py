"""What OpenVINO's CPU kernels compute with integers."""

from __future__ import annotations

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that OpenVINO's low-precision transformations compute with integers on a CPU."""

__all__ = ["INTEGER_OPS"]
