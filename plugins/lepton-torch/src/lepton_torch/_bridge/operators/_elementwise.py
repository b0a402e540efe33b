"""Arithmetic and elementary functions, element by element."""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

import torch

from lepton_torch._bridge._narrow import STANDS_IN, to_narrow
from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import DTYPES
from lepton_torch._bridge.operators._support import widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Known

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Sub": torch.sub,
}


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    wide = widened(function)

    def compute(_node: Node, x: torch.Tensor) -> torch.Tensor:
        return wide(x)

    return compute


def _binary(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[..., torch.Tensor]:
    wide = widened(function)

    def compute(_node: Node, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return wide(a, b)

    compute.__module__ = __name__
    return compute


for _name, _function in _UNARY.items():
    operator(_name)(_unary(_function))
for _name, _pair in _BINARY.items():
    operator(_name)(_binary(_pair))


@operator("Identity")
def identity(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the input."""
    return x


@operator("Div")
def div(_node: Node, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide; integers are truncated toward zero."""
    if a.is_floating_point():
        return torch.div(a, b)
    return widened(lambda x, y: torch.div(x, y, rounding_mode="trunc"))(a, b)


@operator("Mod")
def mod(node: Node, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the remainder: with the divisor's sign, or with ``fmod`` the dividend's."""
    return widened(torch.fmod if node.get("fmod", 0) else torch.remainder)(a, b)


@operator("Pow")
def power(_node: Node, base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Raise to a power; the result has the type of the base."""
    if not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.to(exponent.dtype), exponent).to(base.dtype)
    if exponent.dtype in (torch.uint16, torch.uint32, torch.uint64):
        exponent = exponent.to(torch.int64)
    return torch.pow(base, exponent).to(base.dtype)


@operator("Max")
def maximum(_node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Return the largest of several tensors, element by element."""
    return reduce(widened(torch.maximum), parts)


@operator("Min")
def minimum(_node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Return the smallest of several tensors, element by element."""
    return reduce(widened(torch.minimum), parts)


@operator("Sum")
def total(_node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Add several tensors."""
    return reduce(torch.add, parts)


@operator("Mean")
def mean(_node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Return the mean of several tensors, element by element."""
    return reduce(torch.add, parts) / len(parts)


@operator("Clip")
def clip(
    _node: Node,
    x: torch.Tensor,
    low: torch.Tensor | None = None,
    high: torch.Tensor | None = None,
) -> torch.Tensor:
    """Limit to a range; ``high`` wins where the limits cross."""
    if low is not None:
        x = widened(torch.maximum)(x, low)
    return x if high is None else widened(torch.minimum)(x, high)


@operator("Where")
def where(
    _node: Node, condition: torch.Tensor, yes: torch.Tensor, no: torch.Tensor
) -> torch.Tensor:
    """Choose element by element."""
    return torch.where(condition, yes, no)


_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)


def cast_to(x: torch.Tensor, dtype: torch.dtype, saturate: bool = True) -> torch.Tensor:
    """Convert as ONNX does: to float8 with values beyond the range at its end."""
    if dtype not in _FLOAT8:
        return x.to(dtype)
    wide = x.float()
    limit = torch.finfo(dtype).max
    if saturate:
        wide = torch.where(wide.isnan(), wide, wide.clamp(-limit, limit))
    elif dtype == torch.float8_e4m3fn:  # torch saturates here, whoever asks
        spacing = 2.0 ** (math.floor(math.log2(limit)) - 3)
        wide = torch.where(wide.abs() > limit + spacing / 2, math.nan, wide)
    return wide.to(dtype)


def _cast(node: Node, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return cast_to(x, dtype, bool(node.get("saturate", 1)))


@operator("Cast")
def cast(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Convert to the type ``to``."""
    number = node.get("to")
    if number in STANDS_IN:
        return to_narrow(x, number)
    dtype = DTYPES.get(number)
    if dtype is None:
        node.refuse("torch has no tensors of the type asked for")
    return _cast(node, x, dtype)


@operator("CastLike")
def cast_like(node: Node, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Convert to the type of another tensor."""
    return _cast(node, x, like.dtype)


@operator("CumSum", known=(1,))
def cumsum(node: Node, x: torch.Tensor, axis: Known) -> torch.Tensor:
    """Add up along an axis, maybe backwards, maybe without the element itself."""
    dim = axis.ints()[0]
    turned = x.flip(dim) if node.get("reverse", 0) else x
    sums = turned.cumsum(dim, dtype=x.dtype)
    if node.get("exclusive", 0):
        sums = sums - turned
    return sums.flip(dim) if node.get("reverse", 0) else sums
