"""Integers of a weight in few bits: by the rule of its entry in a recipe, or from the sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import BlockWeight

CONTAINERS = (2, 4, 8)
"""Widths in which MatMulNBits stores integers."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A weight in few bits, outputs first, whatever its orientation in the pivot.

    Attributes:
        codes: int8 (uint8 if not symmetric) of shape ``(outputs, inputs)``.
        scale: float32 of shape ``(outputs, blocks)``.
        zero_point: uint8 of the same shape; ``None`` if symmetric.
        block: Consecutive inputs that share a scale; the last block may have fewer.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None
    block: int

    @classmethod
    def of(cls, found: lk.BlockQuantized, block: int) -> Blocks:
        """Take over what a kernel found."""
        return cls(found.codes, found.scale, found.zero_point, block)

    def values(self) -> NDArray[np.float32]:
        """Return the weights that the integers stand for, ``(outputs, inputs)``."""
        return lk.dequantize_blocks(self.codes, self.scale, self.zero_point, self.block)


def container(bits: int) -> int:
    """Return the width in which integers of *bits* bits are stored."""
    return next(width for width in CONTAINERS if width >= bits)


def by_output(values: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """Return a weight as ``(outputs, inputs)``; *axis* is that of its inputs."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(values, np.float32), axis, 1))


def block_integers(
    name: str, values: NDArray[Any], entry: BlockWeight, arrays: Mapping[str, NDArray[Any]]
) -> Blocks:
    """Return the integers of a weight.

    Args:
        name: The weight's name, for messages.
        values: The pivot's float weight, two axes.
        entry: Its entry in the recipe.
        arrays: What the recipe's sidecar holds, by name.

    Raises:
        OptimizeError: ``LPT-OPT-005`` the weight is not finite, ``LPT-OPT-006`` an array of the
            sidecar has another shape than it must have, or integers of more bits.
    """
    rows = by_output(values, entry.axis)
    factors = input_scale(name, rows.shape[1], entry, arrays)
    if entry.integers is not None:
        return _kept(name, rows.shape, entry, arrays)
    try:
        found = lk.quantize_blocks(
            rows if factors is None else rows * factors,
            entry.block,
            bits=entry.bits,
            scheme=entry.scheme,  # type: ignore[arg-type]
            clip=entry.clip,  # type: ignore[arg-type]
        )
    except lk.KernelError as error:
        raise OptimizeError(
            "LPT-OPT-005",
            f"The weight {name!r} cannot be stored in blocks",
            cause=str(error),
            remedy="Remove its layer from the recipe; it then stays float.",
        ) from error
    return Blocks.of(found, entry.block)


def input_scale(
    name: str, inputs: int, entry: BlockWeight, arrays: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32] | None:
    """Return the factors of a weight's inputs, ``(inputs,)``; ``None`` if it has none.

    Raises:
        OptimizeError: ``LPT-OPT-006`` there are not as many as inputs, or one is not positive.
    """
    if entry.input_scale is None:
        return None
    factors = arrays[entry.input_scale]
    _require_shape(name, entry.input_scale, factors, (inputs,))
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise _bad(name, f"{entry.input_scale!r} holds a factor that is not positive and finite")
    result: NDArray[np.float32] = factors
    return result


def _kept(
    name: str, shape: tuple[int, ...], entry: BlockWeight, arrays: Mapping[str, NDArray[Any]]
) -> Blocks:
    outputs, inputs = shape
    codes = arrays[entry.integers or ""]
    scale = arrays[entry.scale or ""]
    zero = None if entry.zero_point is None else arrays[entry.zero_point]
    given = shape if entry.axis == 1 else shape[::-1]
    _require_shape(name, entry.integers or "", codes, given)
    blocks = (outputs, -(-inputs // entry.block))
    _require_shape(name, entry.scale or "", scale, blocks)
    half, top = 2 ** (entry.bits - 1), 2**entry.bits - 1
    low, high = (-half, half - 1) if entry.symmetric else (0, top)
    if codes.size and (codes.min() < low or codes.max() > high):
        raise _bad(name, f"its integers lie in {codes.min()}..{codes.max()}, not in {low}..{high}")
    if not (np.isfinite(scale).all() and (scale != 0).all()):
        raise _bad(name, "a scale is 0, NaN or infinite")
    if zero is not None:
        _require_shape(name, entry.zero_point or "", zero, blocks)
        if zero.size and zero.max() > top:
            raise _bad(name, f"a zero point is {zero.max()}; the largest is {top}")
    rows = np.ascontiguousarray(np.moveaxis(codes, entry.axis, 1))
    return Blocks(rows, scale, zero, entry.block)


def _require_shape(name: str, key: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise _bad(name, f"{key!r} has the shape {list(array.shape)} instead of {list(shape)}")


def _bad(name: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-006",
        f"The sidecar's arrays for {name!r} do not fit the weight",
        cause=cause,
        remedy="Write the recipe again, or set the method to rtn or mse, which need no sidecar.",
    )


__all__ = ["CONTAINERS", "Blocks", "block_integers", "by_output", "container", "input_scale"]
