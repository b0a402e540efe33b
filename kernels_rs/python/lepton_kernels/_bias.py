"""Biases of integer layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_kernels._arguments import output_array, real_array
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_LOW, _HIGH = -(2**31), 2**31 - 1


class QuantizedBias(NamedTuple):
    """The outcome of `quantize_bias`.

    Attributes:
        codes: int32, of the shape of the bias; the zero point is 0.
        scale: float32, ``scale_x * scale_w`` rounded once, of the shape of `scale_w`.
        saturated: Values that were cut to the range of int32.
    """

    codes: NDArray[np.int32]
    scale: NDArray[np.float32]
    saturated: int


def quantize_bias(
    bias: ArrayLike,
    scale_x: ArrayLike,
    scale_w: ArrayLike,
    *,
    out: NDArray[np.int32] | None = None,
) -> QuantizedBias:
    """Quantizes a bias at the scale of the products that it is added to.

    ``codes = clip(rint(bias / scale), -2^31, 2^31 - 1)`` with ``scale = scale_x * scale_w`` rounded
    to float32, as it will be stored, and the quotient in float64, ties to even.

    Args:
        bias: float32, float16, bfloat16 or float64 values, finite, of shape ``(channels,)`` or ().
        scale_x: The scale of the layer's input, a single value.
        scale_w: The scale of the weights, one value, or one per channel; it may be negative.
        out: A C-contiguous int32 array of the shape of `bias`, which is filled and returned as the
            integers.

    Returns:
        Integers, scales, and how many values int32 could not hold.

    Raises:
        KernelTypeError: An argument is not of real numbers.
        KernelError: The shapes do not fit, a bias is NaN or infinite, or a scale is zero, denormal
            or not finite, or `out` does not fit.
    """
    given = [np.asarray(array) for array in (bias, scale_x, scale_w)]
    values, input_scale, weight_scale = (
        real_array(name, array)
        for name, array in zip(("bias", "scale_x", "scale_w"), given, strict=True)
    )
    if input_scale.size != 1 or values.ndim > 1:
        raise KernelError(
            f"bias has shape {values.shape} and scale_x {input_scale.shape}; accepted are one bias "
            "per channel and a single scale_x"
        )
    if weight_scale.size != 1 and weight_scale.shape != values.shape:
        raise KernelError(
            f"scale_w has shape {weight_scale.shape}; for a bias of shape {values.shape} it must "
            "be a single value or have that shape"
        )
    bad = ~np.isfinite(values)
    if bad.any():
        raise KernelError(
            f"{np.count_nonzero(bad)} of {values.size} biases are NaN or infinite, the first at "
            f"{int(np.atleast_1d(bad).argmax())}; repair them first"
        )
    codes = output_array(out, values.shape, "int32", *given)
    scale = _product(input_scale, weight_scale)
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.rint(values / scale.astype(np.float64).reshape(_shape_for(scale, values)))
    saturated = int(np.count_nonzero((rounded < _LOW) | (rounded > _HIGH)))
    np.clip(rounded, _LOW, _HIGH, out=codes, casting="unsafe")
    return QuantizedBias(codes, scale, saturated)


def _shape_for(scale: NDArray[Any], values: NDArray[Any]) -> tuple[int, ...]:
    return () if scale.size == 1 and values.size != 1 else values.shape


def _product(input_scale: NDArray[Any], weight_scale: NDArray[Any]) -> NDArray[np.float32]:
    """The product of the two as float32; the product of float32 is exact in float64."""
    with np.errstate(all="ignore"):
        exact = input_scale.astype(np.float32).reshape(()).astype(np.float64) * (
            weight_scale.astype(np.float32).astype(np.float64)
        )
        scale = np.asarray(exact, np.float32)
    bad = ~(np.isfinite(scale) & (np.abs(scale) >= np.finfo(np.float32).tiny))
    if bad.any():
        place = int(np.atleast_1d(bad).argmax())
        raise KernelError(
            f"scale_x * scale_w of channel {place} is {np.atleast_1d(scale)[place]}; the product "
            "must be finite and not denormal: raise the smaller scale"
        )
    return scale
