"""Integers of a weight as one operator wants them, and which operators have kernels for them.

What the kernels take was tried on LiteRT 2.3. Hybrid ones want positive scales along the axis of
their outputs, and those for blocks four bits, blocks of a multiple of 32 inputs and scales that
float16 holds; DEQUANTIZE takes any scale of either sign, along any axis, and zero points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lepton_tflite._weights import Weight

HYBRID = {  # operator: place of the weight, axis of its outputs, version of the kernel
    "FULLY_CONNECTED": (1, 0, 12),
    "CONV_2D": (1, 0, 5),
    "DEPTHWISE_CONV_2D": (1, 3, 6),
    "TRANSPOSE_CONV": (1, 0, 3),
    "BATCH_MATMUL": (1, -1, 4),
}
"""Operators with kernels that quantize float inputs as they run."""

_BLOCK = 32
"""Blocks of hybrid kernels have a multiple of so many inputs."""


@dataclass(frozen=True, eq=False)
class Form:
    """Integers as one operator wants them.

    Attributes:
        weight: The weight.
        codes: Its integers, turned as the file has them.
        axis: Axis of its scales; ``None`` for one scale.
    """

    weight: Weight
    codes: NDArray[np.int8]
    axis: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.codes.shape, self.axis, self.codes.strides, self.codes.ctypes.data)


def _transposed(form: Form, axes: list[int]) -> Form:
    axis = None if form.axis is None else axes.index(form.axis)
    return replace(form, codes=form.codes.transpose(axes), axis=axis)


def _reversed(form: Form, axes: list[int]) -> Form | None:
    places = tuple(axis % form.codes.ndim for axis in axes)
    return None if form.axis in places else replace(form, codes=np.flip(form.codes, places))


def _reshaped(form: Form, shape: list[int]) -> Form | None:
    """Return a weight with other axes of size 1; others stay, and so does what a scale is for."""
    codes, axis = form.codes, form.axis
    shaped = codes.reshape(shape)
    if [d for d in shaped.shape if d != 1] != [d for d in codes.shape if d != 1]:
        return None
    if axis is None or codes.shape[axis] == 1:
        return replace(form, codes=shaped, axis=None if axis is None else 0)
    nth = sum(d != 1 for d in codes.shape[:axis])
    return replace(form, codes=shaped, axis=[i for i, d in enumerate(shaped.shape) if d != 1][nth])


TURNS: dict[str, Callable[[Form, list[int]], Form | None]] = {
    "TRANSPOSE": _transposed,
    "REVERSE_V2": _reversed,
    "RESHAPE": _reshaped,
}
"""Operators that turn a weight, given their constant; ``None`` where scales would not go along."""


def numbers_for(form: Form, axis: int | None) -> Any:  # noqa: ANN401 - a generated class
    """Return scales and zero points as a tensor has them."""
    own, weight = schema.QuantizationParametersT(), form.weight
    own.scale = np.asarray(weight.scale, np.float32).reshape(-1)
    zero = weight.zero_point
    own.zeroPoint = np.zeros(own.scale.size, np.int64) if zero is None else (
        zero.reshape(-1).astype(np.int64))  # fmt: skip
    own.quantizedDimension = axis or 0
    return own


def why_not_hybrid(name: str, slot: int, form: Form, operator: Any) -> str:  # noqa: ANN401
    """Return why no hybrid kernel takes a weight, nothing if one does."""
    weight, options = form.weight, operator.builtinOptions
    if name not in HYBRID or slot != HYBRID[name][0]:
        return f"{name} has no kernel for it"
    axis = HYBRID[name][1] % form.codes.ndim
    block = weight.block if weight.by_block else None
    halves = weight.scale.astype(np.float16).astype(np.float32)
    matrix = name != "BATCH_MATMUL" or form.codes.ndim == 2
    turned = name == "BATCH_MATMUL" and bool(options and options.adjY)
    reasons = (
        (not matrix, f"{name} has kernels for matrices alone"),
        (turned, f"{name} turns it as it runs"),
        (
            weight.scale.size > 1 and form.axis != axis,
            "its scales lie along another axis than outputs",
        ),
        ("CONV" in name and not _has_bias(operator, name), f"{name} has no bias"),  # LiteRT crashes
        (weight.zero_point is not None, "it has zero points"),
        (not bool((weight.scale > 0).all()), "a scale is negative"),
        (weight.bits == 4 and name != "FULLY_CONNECTED", f"{name} has no kernel for four bits"),
        (block is not None and weight.bits == 8, "there are no kernels for blocks of 8 bits"),
        (
            block is not None and (block % _BLOCK != 0 or form.codes.shape[1] % block != 0),
            f"blocks are no multiple of {_BLOCK} that divides the inputs",
        ),
        (
            block is not None and not np.array_equal(halves, weight.scale),
            "float16 does not hold its scales",
        ),
    )
    return next((reason for wrong, reason in reasons if wrong), "")


def _has_bias(operator: Any, name: str) -> bool:  # noqa: ANN401 - a generated class
    place_ = 3 if name == "TRANSPOSE_CONV" else 2
    return len(operator.inputs) > place_ and int(operator.inputs[place_]) >= 0


__all__ = ["HYBRID", "TURNS", "Form", "numbers_for", "why_not_hybrid"]
