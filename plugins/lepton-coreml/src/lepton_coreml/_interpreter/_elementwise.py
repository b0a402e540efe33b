"""Elementwise operators of one, two and three inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]

_ERF = np.frompyfunc(math.erf, 1, 1)

_UNARY = {
    "abs": np.abs, "acos": np.arccos, "asin": np.arcsin, "atan": np.arctan, "atanh": np.arctanh,
    "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh, "exp": np.exp, "exp2": np.exp2,
    "floor": np.floor, "logical_not": np.logical_not, "round": np.rint, "sign": np.sign,
    "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square, "tan": np.tan,
    "identity": np.asarray,
}  # fmt: skip

_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum,
    "minimum": np.minimum, "mod": np.mod, "floor_div": np.floor_divide, "pow": np.power,
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor,
}  # fmt: skip

DTYPES = {
    "fp16": np.float16, "fp32": np.float32, "fp64": np.float64, "int8": np.int8,
    "int16": np.int16, "int32": np.int32, "int64": np.int64, "uint8": np.uint8,
    "uint16": np.uint16, "uint32": np.uint32, "bool": np.bool_,
}  # fmt: skip
"""NumPy's dtype by what MIL calls it in arguments."""


def _add_unary(name: str, function: Any) -> None:  # noqa: ANN401 - a ufunc
    operator(name)(function)


def _add_binary(name: str, function: Any) -> None:  # noqa: ANN401 - a ufunc
    operator(name)(function)


for _name, _function in _UNARY.items():
    _add_unary(_name, _function)
for _name, _function in _BINARY.items():
    _add_binary(_name, _function)


def erf_of(x: Array) -> Array:
    """Return the error function of every element, correct to the last bit of float32."""
    return np.asarray(_ERF(np.asarray(x, np.float64)), np.float64).astype(np.float32)


@operator("erf")
def erf(x: Array) -> Array:
    """Return the error function."""
    return erf_of(x)


@operator("real_div")
def real_div(x: Array, y: Array) -> Array:
    """Return x / y; of integers rounded towards zero by the declared type."""
    return np.true_divide(x, y)


@operator("inverse")
def inverse(x: Array, epsilon: Array = np.float32(1e-4)) -> Array:
    """Return 1 / (x + epsilon)."""
    return np.float32(1) / (x + epsilon)


@operator("rsqrt")
def rsqrt(x: Array, epsilon: Array = np.float32(1e-12)) -> Array:
    """Return 1 / sqrt(x + epsilon)."""
    return np.float32(1) / np.sqrt(x + epsilon)


@operator("log")
def log(x: Array, epsilon: Array = np.float32(1e-45)) -> Array:
    """Return the natural logarithm of x + epsilon."""
    return np.log(x + epsilon)


@operator("clip")
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """Cut values to alpha … beta."""
    return np.minimum(np.maximum(x, alpha), beta)


@operator("threshold")
def threshold(x: Array, alpha: Array) -> Array:
    """Return x, but nothing below alpha."""
    return np.maximum(x, alpha)


@operator("cast")
def cast(x: Array, dtype: str) -> Array:
    """Convert the element type; floats are cut towards zero to integers."""
    return np.asarray(x).astype(DTYPES[dtype])


@operator("select")
def select(cond: Array, a: Array, b: Array) -> Array:
    """Take a where the condition holds, else b."""
    return np.where(cond, a, b)


__all__ = ["DTYPES", "erf_of"]
