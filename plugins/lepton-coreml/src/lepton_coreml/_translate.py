"""Translations of our torch operators (:mod:`lepton_coreml._library`) to MIL.

Integers that are constants of the program become ``constexpr_blockwise_shift_scale`` (iOS 18) or
``constexpr_affine_dequantize`` (iOS 17), which Core ML keeps as integers on disk; integers made at
run time go through ``quantize`` and ``dequantize``. Palettes and pruned weights are written in
:mod:`lepton_coreml._translate_small`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._library import NAMESPACE
from lepton_coreml._translate_small import look_up, pruned, scaled

if TYPE_CHECKING:
    from lepton_coreml._integers import Names


def translations(names: Names) -> dict[str, Any]:
    """Return functions by the name that coremltools looks up.

    Args:
        names: Gives names to operations that carry a recipe's numbers.
    """
    return {
        f"{NAMESPACE}::quantize": functools.partial(_quantize, names),
        f"{NAMESPACE}::dequantize": functools.partial(_dequantize, names),
        f"{NAMESPACE}::palette": functools.partial(_palette, names),
        f"{NAMESPACE}::sparse": functools.partial(_sparse, names),
    }


def _builder() -> Any:  # noqa: ANN401 - coremltools has no types
    from coremltools.converters.mil.mil import Builder

    return Builder


def _inputs(context: Any, node: Any) -> list[Any]:  # noqa: ANN401 - coremltools has no types
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    return list(_get_inputs(context, node))


def _scalar(value: Any) -> int:  # noqa: ANN401 - a Var or a number
    return int(value.val if hasattr(value, "val") else value)


def _axis(scale: Any, axis: int) -> dict[str, Any]:  # noqa: ANN401 - an array
    return {"axis": np.int32(axis)} if np.ndim(scale) else {}


def _plain(values: Any) -> Any:  # noqa: ANN401 - an array
    """Return one value without axes, or one for each channel."""
    array = np.asarray(values)
    return array.reshape(()) if array.size == 1 else array


def _quantize(names: Names, context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools has no types
    x, scale, zero, axis = _inputs(context, node)
    if scale.val is None or zero.val is None:
        msg = "Core ML quantizes with scales and zero points that are constants"
        raise ValueError(msg)
    factor, point = _plain(scale.val), _plain(zero.val)
    result = _builder().quantize(
        input=x,
        scale=factor.astype(np.float32),
        zero_point=point,
        output_dtype=point.dtype.name,
        name=names.of(node.inputs[1], "scale"),
        **_axis(factor, _scalar(axis)),
    )
    context.add(result, node.name)


def _dequantize(names: Names, context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools has no types
    codes, scale, zero, axis, block, bits, inputs, marked = _inputs(context, node)
    mb = _builder()
    place, values = _scalar(axis), codes.val
    mask = None if marked is None else marked.val
    if scale.val is None:
        msg = "Core ML dequantizes with scales that are constants"
        raise ValueError(msg)
    points = None if zero is None else np.asarray(zero.val)
    if values is None:
        factor = _plain(scale.val).astype(np.float32)
        more = {} if points is None else {"zero_point": _plain(points)}
        name = names.of(node.inputs[1], "scale")
        made = mb.dequantize(input=codes, scale=factor, name=name, **more, **_axis(factor, place))
    elif values.dtype.itemsize > 1:
        made = mb.const(val=_restored(values, scale.val, points, place), name=node.name)
    elif _scalar(block):
        name = names.of(node.inputs[0], "block", _scalar(inputs))
        made = _blockwise(
            mb, name, values=values, scale=scale.val, points=points, axis=place,
            bits=_scalar(bits), mask=mask,
        )  # fmt: skip
    elif _has_blocks():
        name = names.of(node.inputs[0], "weight")
        made = _blockwise(
            mb, name, values=values, scale=scale.val, points=points, axis=place, bits=8, mask=mask
        )
    else:
        made = _affine(
            mb,
            names.of(node.inputs[0], "weight"),
            values=values,
            scale=scale.val,
            points=points,
            axis=place,
        )
    context.add(made, node.name)


def _palette(names: Names, context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    indices, tables, marked, axis = _inputs(context, node)
    name = names.of(node.inputs[0], "palette", _scalar(axis))
    made = look_up(
        _builder(), name, indices.val.astype(np.uint8), tables.val,
        None if marked is None else marked.val, _scalar(axis), packed=not _has_blocks(),
    )  # fmt: skip
    context.add(made, node.name)


def _sparse(names: Names, context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    values, mask = _inputs(context, node)
    name = names.of(node.inputs[0], "sparse")
    made = pruned(_builder(), name, values.val, mask.val, packed=not _has_blocks())
    context.add(made, node.name)


def _has_blocks() -> bool:
    """Tell whether the program is for iOS 18, whose constants may have a scale for each block."""
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget
    from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

    return bool(is_current_opset_version_compatible_with(AvailableTarget.iOS18))


def _restored(values: Any, scale: Any, points: Any, axis: int) -> Any:  # noqa: ANN401
    """Return wide integers (biases) as float32, which no compressed constant can hold."""
    wide = values.astype(np.int64)
    factor = np.asarray(scale, np.float32)
    shape = [-1 if i == axis % max(values.ndim, 1) else 1 for i in range(values.ndim)]
    if points is not None and np.any(points):
        wide = wide - (points if points.ndim == 0 else points.reshape(shape))
    factor = factor if factor.ndim == 0 else factor.reshape(shape)
    return wide.astype(np.float32) * factor


def _affine(
    mb: Any,  # noqa: ANN401 - coremltools has no types
    name: str,
    *,
    values: Any,  # noqa: ANN401 - arrays
    scale: Any,  # noqa: ANN401
    points: Any,  # noqa: ANN401
    axis: int,
) -> Any:  # noqa: ANN401 - coremltools has no types
    factor = _plain(scale).astype(np.float32)
    zero = np.zeros(factor.shape, values.dtype) if points is None else _plain(points)
    return mb.constexpr_affine_dequantize(
        quantized_data=values,
        scale=factor,
        zero_point=zero.astype(values.dtype),
        axis=np.int32(axis if factor.ndim else 0),
        name=name,
    )


def _blockwise(
    mb: Any,  # noqa: ANN401 - coremltools has no types
    name: str,
    *,
    values: Any,  # noqa: ANN401 - arrays
    scale: Any,  # noqa: ANN401
    points: Any,  # noqa: ANN401
    axis: int,
    bits: int,
    mask: Any = None,  # noqa: ANN401
) -> Any:  # noqa: ANN401 - coremltools has no types
    from coremltools.converters.mil.mil import types

    factor = _spread(np.asarray(scale, np.float32), values, axis)
    held = values
    zero = None if points is None or not np.any(points) else _spread(points, values, axis)
    if bits == 4:
        small = types.int4 if values.dtype == np.int8 else types.uint4
        kind = types.nptype_from_builtin(small)
        held = values.astype(kind)
        zero = None if zero is None else zero.astype(kind)
    elif zero is not None:
        zero = zero.astype(values.dtype)
    more = {} if zero is None else {"offset": zero}
    if mask is not None:
        return scaled(mb, name, held, mask, factor, more)
    return mb.constexpr_blockwise_shift_scale(data=held, scale=factor, name=name, **more)


def _spread(values: Any, data: Any, axis: int) -> Any:  # noqa: ANN401 - arrays
    """Return scales or offsets with as many axes as the data, 1 where there is only one."""
    array = np.asarray(values)
    if array.ndim == data.ndim:
        return array
    if array.size == 1:
        return array.reshape([1] * data.ndim)
    return array.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])


__all__ = ["translations"]
