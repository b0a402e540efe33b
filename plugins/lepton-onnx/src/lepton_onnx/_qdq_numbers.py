"""Integers that follow from a recipe by rule; see ``RULES`` in :mod:`lepton_core.recipe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.recipe import Tensor

LARGEST_BIAS = 2**30
"""Bias integers stay below this, so that accumulators of 32 bits keep room for the products."""


def weight_scales(values: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
    """Return absmax / 127 of a weight, per channel along *axis* or as one number.

    Args:
        values: Float weight of any shape, finite.
        axis: Channel axis; ``None`` for one scale.

    Returns:
        float32 scales ``(channels,)`` or ``()``; 1 for channels of zeros.

    Raises:
        lepton_kernels.KernelError: A value is NaN or infinite.
    """
    return lk.scale_symmetric(np.asarray(values, np.float32), "int8", axis=axis, narrow=True)


def weight_integers(values: NDArray[Any], tensor: Tensor) -> NDArray[np.int8]:
    """Return a weight's integers, ``clip(rint(w / scale), -127, 127)``.

    Args:
        values: Float weight of any shape.
        tensor: Its entry in the recipe.
    """
    scale = np.asarray(tensor.scale, np.float32)
    result: NDArray[np.int8] = lk.quantize(
        np.asarray(values, np.float32), scale, dtype="int8", axis=tensor.axis, narrow=True
    )
    return result


def bias_integers(
    bias: NDArray[Any], input_scale: float, weight: Tensor
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return a bias as int32 at input scale * weight scale, and these scales.

    Args:
        bias: Float bias whose last axis runs over the channels of *weight*.
        input_scale: Scale of the layer's input.
        weight: The weight's entry in the recipe.

    Returns:
        int32 of the shape of *bias*, and float32 scales ``(channels,)`` or ``()``. The product of
        the scales is rounded to float32 once; the division is done in float64.
    """
    scale = np.float32(input_scale) * np.asarray(weight.scale, np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    exact = np.rint(np.asarray(bias, np.float64) / scale.astype(np.float64))
    limit = float(2**31 - 1)
    return np.clip(exact, -limit, limit).astype(np.int32), scale


__all__ = ["LARGEST_BIAS", "bias_integers", "weight_integers", "weight_scales"]
