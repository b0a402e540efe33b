"""Quantization as the converter recognises it: torch's ``quantized_decomposed`` operators.

Used for this export alone. The bridge's own translations are ONNX's to the last bit, but the
converter turns only these operators into integer kernels. Weights stand as float values that lie
on the grid, quantized and dequantized in the graph: the integers come out again, as a product of
an integer and its scale is nearer to that integer than to any other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from onnx import TensorProto
from torch import nn

from lepton_torch.bridge import Known, Node, Operator, Value

_LIMITS = {torch.int8: (-128, 127), torch.int16: (-32768, 32767)}
_ops = torch.ops.quantized_decomposed


def _one(value: Known) -> Any:  # noqa: ANN401 - a number
    return value.values.reshape(-1)[0].item()


def _quantize(node: Node, x: Value, scale: Known, zero: Known) -> torch.Tensor:
    x = x.tensor() if isinstance(x, Known) else x
    # Integers of fewer bits stand in int8 as well; their true type is an attribute then.
    whole = node.get("output_dtype", 0) in (0, TensorProto.INT8, TensorProto.INT16)
    if zero.dtype not in _LIMITS or scale.values.size != 1 or not whole:
        node.refuse(f"LiteRT has no activations of type {zero.dtype} with several scales")
    low, high = _LIMITS[zero.dtype]
    return _ops.quantize_per_tensor.default(
        x, float(_one(scale)), int(_one(zero)), low, high, zero.dtype
    )


def _dequantize(node: Node, x: Value, scale: Known, zero: Known | None = None) -> torch.Tensor:
    if zero is None or zero.dtype not in _LIMITS:
        node.refuse("LiteRT has no activations of this type")
    low, high = _LIMITS[zero.dtype]
    return _ops.dequantize_per_tensor.default(
        x, float(_one(scale)), int(_one(zero)), low, high, zero.dtype
    )


def _weight(held: nn.Module, key: str, node: Node, x: Known, scale: Known) -> torch.Tensor:
    """Return a weight, quantized and dequantized again; a bias as the numbers that it stands for.

    A matrix whose columns have scales of their own is quantized the other way round, as the
    runtime's kernels want its outputs first.
    """
    axis = node.get("axis", 1) % max(x.values.ndim, 1)
    turned = x.values.ndim == 2 and axis == 1 and scale.values.size > 1
    if not hasattr(held, f"{key}_values"):
        _hold(held, key, x, scale, axis=axis, turned=turned)
    values = getattr(held, f"{key}_values")
    if x.dtype != torch.int8:
        return values
    if scale.values.size == 1:
        grid = (float(_one(scale)), 0, -127, 127, torch.int8)
        return _ops.dequantize_per_tensor.default(
            _ops.quantize_per_tensor.default(values, *grid), *grid
        )
    scales, zeros = getattr(held, f"{key}_scales"), getattr(held, f"{key}_zeros")
    limits = (scales, zeros, 0 if turned else axis, -127, 127, torch.int8)
    found = _ops.dequantize_per_channel.default(
        _ops.quantize_per_channel.default(values, *limits), *limits
    )
    return found.mT if turned else found


def _hold(held: nn.Module, key: str, x: Known, scale: Known, *, axis: int, turned: bool) -> None:
    """Keep a weight's values and scales as buffers: the converter takes no constants else."""
    codes, scales = x.tensor(), scale.tensor().to(torch.float32).reshape(-1)
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
    wide = scales.reshape(shape if scales.numel() > 1 else [1] * codes.ndim)
    values = codes.to(torch.float32) * wide
    held.register_buffer(f"{key}_values", values.mT.contiguous() if turned else values)
    held.register_buffer(f"{key}_scales", scales)
    held.register_buffer(f"{key}_zeros", torch.zeros(scales.numel(), dtype=torch.int64))


def overrides(held: nn.Module) -> dict[str, Operator]:
    """Return translations that take the place of the bridge's own.

    Args:
        held: Gets the weights; it has to be part of the module that is exported.
    """
    names: dict[str, str] = {}

    def dequantize(node: Node, x: Value, scale: Known, *zero: Known) -> torch.Tensor:
        if not isinstance(x, Known):
            return _dequantize(node, x, scale, *zero)
        # Buffers take no dots, and replacing them would give two names one buffer.
        key = names.setdefault(node.outputs[0], f"constant_{len(names)}")
        return _weight(held, key, node, x, scale)

    return {
        "QuantizeLinear": Operator("QuantizeLinear", _quantize, (1, 2), (0,), "quantization"),
        "DequantizeLinear": Operator("DequantizeLinear", dequantize, (1, 2), (0,), "quantization"),
    }


__all__ = ["overrides"]
