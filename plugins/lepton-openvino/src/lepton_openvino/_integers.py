"""What OpenVINO's CPU kernels compute with integers."""

from __future__ import annotations

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that OpenVINO's low-precision transformations compute with integers on a CPU."""

SPARSE_DTYPES = ("float32",)
"""Pruned weights that are stored as a mask and values. A graph of constants is computed once, as a
model is loaded, so that float products are as quick; products of int8 weights that are put together
so would be computed in float."""

__all__ = ["INTEGER_OPS", "SPARSE_DTYPES"]
