"""Translations of palettes and pruned weights to MIL's ``constexpr_*`` operators.

iOS 18 has tables for groups of channels, masks of bits, and both beside each other; iOS 17 takes
the forms of iOS 16, one table or a mask for a weight, packed in bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def narrow(values: Array, bits: int) -> Array:
    """Return unsigned integers of 1 to 8 bits as coremltools marks them."""
    from coremltools.converters.mil.mil import types

    kind = getattr(types, f"uint{bits}")
    return values.astype(types.nptype_from_builtin(kind))


def bit_mask(mask: Array) -> Array:
    """Return a mask as bits, as coremltools marks them."""
    return narrow(mask != 0, 1)


def look_up(  # noqa: PLR0917 - one for each part of a palette
    mb: Any,  # noqa: ANN401 - coremltools has no types
    name: str,
    indices: Array,
    tables: Array,
    mask: Array | None,
    axis: int,
    *,
    packed: bool,
) -> Any:  # noqa: ANN401 - as above
    """Return a weight as places in tables.

    Args:
        mb: The builder.
        name: Name of the operation that holds indices and tables.
        indices: uint8 in the weight's shape.
        tables: float32 ``(groups, 2 ** bits)``, the groups dividing *axis*.
        mask: Which values stay; ``None`` for all.
        axis: Axis of the groups.
        packed: Whether to write the form of iOS 16, which has one table and no mask.
    """
    bits = int(np.log2(tables.shape[1]))
    if packed:
        return mb.constexpr_lut_to_dense(
            indices=lk.pack_bits(indices.reshape(-1), bits),
            lut=tables[0],
            shape=np.asarray(indices.shape, np.uint32),
            name=name,
        )
    lut = tables.reshape(
        [len(tables) if i == axis else 1 for i in range(indices.ndim)] + [tables.shape[1], 1]
    )
    if mask is None:
        return mb.constexpr_lut_to_dense(indices=narrow(indices, bits), lut=lut, name=name)
    held = narrow(indices[mask != 0], bits)
    marked, values = mb.constexpr_lut_to_sparse(
        indices_mask=bit_mask(mask), indices_nonzero_data=held, lut=lut, name=name
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=marked, name=f"dense_{name}")


def pruned(mb: Any, name: str, values: Array, mask: Array, *, packed: bool) -> Any:  # noqa: ANN401
    """Return a weight as a mask and the values that stay.

    Args:
        mb: The builder.
        name: Name of the operation.
        values: float32.
        mask: Which of them stay, in their shape.
        packed: Whether to write the form of iOS 16.
    """
    held = values[mask != 0]
    if packed:
        return mb.constexpr_sparse_to_dense(
            nonzero_data=held,
            mask=np.packbits(mask.reshape(-1) != 0, bitorder="little"),
            shape=np.asarray(values.shape, np.uint32),
            name=name,
        )
    return mb.constexpr_sparse_to_dense(nonzero_data=held, mask=bit_mask(mask), name=name)


def scaled(  # noqa: PLR0917 - one for each part
    mb: Any,  # noqa: ANN401 - coremltools has no types
    name: str,
    data: Array,
    mask: Array,
    factor: Array,
    more: dict[str, Array],
) -> Any:  # noqa: ANN401 - as above
    """Return scaled integers as a mask and the integers that stay (iOS 18).

    Args:
        mb: The builder.
        name: Name of the operation that holds the integers.
        data: Integers as coremltools marks them.
        mask: Which of them stay, in their shape.
        factor: Scales, with as many axes.
        more: ``offset``, where there is one.
    """
    marked, values = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=bit_mask(mask), nonzero_data=data[mask != 0], scale=factor, name=name, **more
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=marked, name=f"dense_{name}")


__all__ = ["bit_mask", "look_up", "narrow", "pruned", "scaled"]
