"""Torch operators for quantization that coremltools keeps as such.

The bridge writes quantization in plain operators, which would be folded into floats. Here the two
operators of ONNX become one torch operator each, with the recipe's scale, zero point and integers
as they are; :mod:`lepton_coreml._translate` turns them into MIL's ``quantize``, ``dequantize`` and
``constexpr_blockwise_shift_scale``. (``torch.ops.quantized_decomposed`` will not do: coremltools
9.0 has no translation of its ``quantize_per_channel`` with this order of arguments, its
``dequantize`` cannot have a scale for each block, and it multiplies by the reciprocal of the
scale where ONNX divides.)
"""

from __future__ import annotations

import enum
import functools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from onnx import TensorProto

from lepton_torch.bridge import CUT_OUTPUT_PADDING, TOP_K, Node, Operator

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "lepton_coreml"
BITS = "lepton_bits"
"""Attribute of DequantizeLinear: bits of the integers, where they are fewer than their type's."""
INPUTS = "lepton_inputs"
"""Attribute of DequantizeLinear: inputs of the product, where blocks are filled up."""
FORM = "lepton_form"
"""Attribute of DequantizeLinear: a :class:`Form`, where its first input are no scaled integers."""


class Form(enum.IntEnum):
    """What a DequantizeLinear restores.

    A fourth input says which values stay; the others are 0. Integers may have one, too.
    """

    INTEGERS = 0
    PALETTE = 1
    """Indices, and tables ``(groups, entries)`` in the place of scales."""
    SPARSE = 2
    """Values, and no scales."""


_SCHEMAS = (
    "quantize(Tensor x, Tensor scale, Tensor zero_point, int axis) -> Tensor",
    "dequantize(Tensor codes, Tensor scale, Tensor? zero_point, int axis, int block, int bits,"
    " int inputs, Tensor? mask) -> Tensor",
    "palette(Tensor indices, Tensor tables, Tensor? mask, int axis) -> Tensor",
    "sparse(Tensor values, Tensor mask) -> Tensor",
)


_DEFINING = threading.Lock()
"""A search converts in several threads, and torch takes a namespace once."""


def library() -> Any:  # noqa: ANN401 - torch's own class
    """Define the operators, once for the process; the result keeps them alive."""
    with _DEFINING:
        return _defined()


@functools.cache
def _defined() -> Any:  # noqa: ANN401 - torch's own class
    own: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        own.define(schema)
    own.impl("quantize", _quantize, "CompositeExplicitAutograd")
    own.impl("dequantize", _dequantize, "CompositeExplicitAutograd")
    own.impl("palette", _palette, "CompositeExplicitAutograd")
    own.impl("sparse", _sparse, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::quantize", lib=own)(
        lambda x, scale, zero_point, axis: torch.empty_like(x, dtype=zero_point.dtype)
    )
    torch.library.register_fake(f"{NAMESPACE}::dequantize", lib=own)(
        lambda codes, scale, zero_point, axis, block, bits, inputs, mask: torch.empty_like(
            codes, dtype=scale.dtype
        )
    )
    torch.library.register_fake(f"{NAMESPACE}::palette", lib=own)(
        lambda indices, tables, mask, axis: torch.empty_like(indices, dtype=tables.dtype)
    )
    torch.library.register_fake(f"{NAMESPACE}::sparse", lib=own)(
        lambda values, mask: torch.empty_like(values)
    )
    return own


def _along(values: torch.Tensor, x: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    if not block:
        return values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return values.repeat_interleave(block, dim=axis)


def _quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> torch.Tensor:
    limits = torch.iinfo(zero_point.dtype)
    whole = torch.round(x / _along(scale, x, axis, 0))
    shifted = whole + _along(zero_point, x, axis, 0).to(whole.dtype)
    return torch.clamp(shifted, limits.min, limits.max).to(zero_point.dtype)


def _dequantize(  # noqa: PLR0917 - torch passes them by position
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    axis: int,
    block: int,
    bits: int,
    inputs: int,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    del bits, inputs, mask  # how it is stored
    wide = codes.to(torch.int32)
    if zero_point is not None:
        wide = wide - _along(zero_point, codes, axis, block).to(torch.int32)
    return wide.to(scale.dtype) * _along(scale, codes, axis, block)


def _palette(
    indices: torch.Tensor, tables: torch.Tensor, mask: torch.Tensor | None, axis: int
) -> torch.Tensor:
    """Return the values of a palette whose groups divide the axis alike."""
    del mask  # what it hides points to 0
    group = indices.shape[axis] // len(tables)
    own = torch.arange(indices.shape[axis]) // group
    rows = own.reshape([-1 if i == axis else 1 for i in range(indices.ndim)])
    return tables[rows, indices.to(torch.int64)]


def _sparse(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask != 0, values, 0.0)


def overrides() -> Mapping[str, Operator]:
    """Return translations to use in the place of the bridge's own.

    They are those of the two operators, TopK, whose stable sort MIL does not have, and transposed
    convolutions, which coremltools does not always pad at the end.
    """
    library()
    quantize = Operator("QuantizeLinear", _quantize_node, (), (), "quantization")
    back = replace(quantize, name="DequantizeLinear", compute=_dequantize_node)
    return {one.name: one for one in (quantize, back, TOP_K, CUT_OUTPUT_PADDING)}


def _quantize_node(
    node: Node, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None
) -> torch.Tensor:
    # Integers of fewer bits stand in int8 as well; their true type is an attribute then.
    whole = node.get("output_dtype", 0) in (0, TensorProto.INT8, TensorProto.UINT8)
    if zero is None or zero.dtype not in (torch.int8, torch.uint8) or not whole:
        node.refuse("Core ML quantizes to 8 bits, with a zero point")
    axis = -1 if scale.ndim == 0 else int(node.get("axis", 1))
    result: torch.Tensor = torch.ops.lepton_coreml.quantize(x, scale, zero, axis)
    return result


def _dequantize_node(
    node: Node,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    ops, form, axis = torch.ops.lepton_coreml, int(node.get(FORM, 0)), int(node.get("axis", 1))
    result: torch.Tensor
    if form == Form.PALETTE:
        result = ops.palette(x, scale, mask, axis)
    elif scale is None:
        result = ops.sparse(x, mask)
    else:
        block, bits = int(node.get("block_size", 0)), int(node.get(BITS, 0))
        axis = -1 if scale.ndim == 0 else axis
        result = ops.dequantize(x, scale, zero, axis, block, bits, int(node.get(INPUTS, 0)), mask)
    return result


__all__ = ["BITS", "FORM", "INPUTS", "NAMESPACE", "Form", "library", "overrides"]
