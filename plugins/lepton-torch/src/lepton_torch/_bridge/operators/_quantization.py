"""Quantization: the integers of a recipe stay what they are.

Everything is written in plain operators with ONNX's rounding: x / scale, to even. Torch's own
``quantized_decomposed`` operators multiply by 1 / scale, which now and then is another integer.
Weights stay integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lepton_torch._bridge._narrow import RANGES, STANDS_IN, to_narrow
from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import DTYPES
from lepton_torch._bridge.operators._elementwise import cast_to
from lepton_torch._bridge.operators._linear import conv
from lepton_torch._bridge.operators._support import positive

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node


def _per_axis(node: Node, x: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """Broadcast scales or zero points over *x*: one, one per slice, or one per block."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape([1] * x.ndim) if x.ndim else values.reshape(())
    if values.ndim == 1 and not node.get("block_size", 0):
        return values.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    block = node.get("block_size", 0) or x.shape[axis] // values.shape[axis]
    wide = values.repeat_interleave(block, dim=axis)
    return wide.narrow(axis, 0, x.shape[axis])


def _range(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return info.min, info.max


@operator("QuantizeLinear")
def quantize(
    node: Node, x: torch.Tensor, scale: torch.Tensor, points: torch.Tensor | None = None
) -> torch.Tensor:
    """Return clamp(round(x / scale) + zero), ties to even."""
    number = node.get("output_dtype", 0)
    axis = positive(node.get("axis", 1), max(x.ndim, 1))
    divisor = _per_axis(node, x, scale, axis)
    if number in STANDS_IN:
        dtype = STANDS_IN[number]
        if dtype.is_floating_point:
            return to_narrow(x / divisor, number)
        low, high = RANGES[number]
    else:
        dtype = DTYPES.get(number, points.dtype if points is not None else torch.uint8)
        if dtype.is_floating_point:
            return cast_to(x / divisor, dtype, bool(node.get("saturate", 1)))
        low, high = _range(dtype)
    wide = torch.round(x / divisor) if x.is_floating_point() else torch.round(x.float() / divisor)
    if points is not None:
        offset = _per_axis(node, x, points.to(torch.int32), axis)
        wide = wide + offset.to(wide.dtype)
    return torch.clamp(wide, low, high).to(dtype)


@operator("DequantizeLinear")
def dequantize(
    node: Node, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None
) -> torch.Tensor:
    """Return (x - zero) · scale."""
    axis = positive(node.get("axis", 1), max(x.ndim, 1))
    factor = _per_axis(node, x, scale, axis)
    if x.dtype.is_floating_point:
        values = x.to(scale.dtype)
    else:
        whole = x.to(torch.int32)
        if zero is not None:
            whole = whole - _per_axis(node, x, zero.to(torch.int32), axis)
        values = whole.to(scale.dtype)
    number = node.get("output_dtype", 0)
    result = values * factor
    return result.to(DTYPES[number]) if number else result


@operator("DynamicQuantizeLinear")
def dynamic_quantize(
    _node: Node, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize to uint8 by the range of the values at hand; returns scale and zero point too."""
    low = torch.clamp(x.amin(), max=0.0)
    high = torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / safe), 0, 255)
    values = torch.clamp(torch.round(x / safe) + zero, 0, 255)
    return values.to(torch.uint8), scale, zero.to(torch.uint8)


def _lifted(x: torch.Tensor, zero: torch.Tensor | None, axis: int | None = None) -> torch.Tensor:
    """Return integers less their zero point, as float64: exact, and every kernel takes it."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    point = zero.to(torch.float64)
    if point.ndim == 1 and point.shape[0] > 1 and axis is not None:
        point = point.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return wide - point


@operator("MatMulInteger")
def matmul_integer(
    _node: Node,
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero: torch.Tensor | None = None,
    b_zero: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply integers less their zero points into int32."""
    rows = max(a.ndim - 2, 0)
    product = torch.matmul(_lifted(a, a_zero, rows), _lifted(b, b_zero, b.ndim - 1))
    return product.to(torch.int32)


@operator("ConvInteger")
def conv_integer(
    node: Node,
    x: torch.Tensor,
    weight: torch.Tensor,
    x_zero: torch.Tensor | None = None,
    w_zero: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve integers less their zero points into int32."""
    return conv(node, _lifted(x, x_zero), _lifted(weight, w_zero, 0)).to(torch.int32)


def _requantized(wide: torch.Tensor, factor: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    low, high = _range(zero.dtype)
    return torch.clamp(torch.round(wide * factor) + zero.double(), low, high).to(zero.dtype)


@operator("QLinearMatMul")
def qlinear_matmul(
    _node: Node,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_zero: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_zero: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero: torch.Tensor,
) -> torch.Tensor:
    """Multiply quantized matrices and quantize the product."""
    product = torch.matmul(_lifted(a, a_zero, a.ndim - 2), _lifted(b, b_zero, b.ndim - 1))
    rows = a_scale.double()
    rows = rows.unsqueeze(-1) if rows.ndim == 1 and rows.shape[0] > 1 else rows
    return _requantized(product, rows * b_scale.double() / y_scale.double(), y_zero)


@operator("QLinearConv")
def qlinear_conv(
    node: Node,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero: torch.Tensor,
    weight: torch.Tensor,
    w_scale: torch.Tensor,
    w_zero: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve quantized tensors and quantize the result; the bias is int32."""
    own: Any = None if bias is None else bias.double()
    wide = conv(node, _lifted(x, x_zero), _lifted(weight, w_zero, 0), own)
    factor = x_scale.double() * w_scale.double() / y_scale.double()
    if factor.ndim == 1 and factor.shape[0] > 1:
        factor = factor.reshape(-1, *[1] * (x.ndim - 2))
    return _requantized(wide, factor, y_zero)
