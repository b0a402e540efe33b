"""Masks of pruned weights and values of palettes, from the sidecar of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_core.recipe import PalettizedWeight, PrunedWeight


_SHARE = 1e-6
"""By how much a recipe's share may miss the mask's: it is written with six digits."""


def pack_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a mask as a recipe stores it: value ``i`` in C order is bit ``i % 8``, lowest first.

    Args:
        mask: bool of any shape.

    Returns:
        uint8 of shape ``(ceil(size / 8),)``; bits beyond the last value are 0.
    """
    return np.packbits(np.ascontiguousarray(mask).reshape(-1), bitorder="little")


def unpack_mask(
    name: str, shape: Sequence[int], entry: PrunedWeight, arrays: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """Return which values of a weight stay.

    Args:
        name: The weight's name, for messages.
        shape: Its shape.
        entry: Its entry in the recipe.
        arrays: What the recipe's sidecar holds, by name.

    Returns:
        bool of *shape*.

    Raises:
        OptimizeError: ``LPT-OPT-006`` the mask has another size or another share of zeros than the
            entry says, or more values of a group stay than its pattern allows.
    """
    size = int(np.prod(shape, dtype=np.int64))
    packed = arrays[entry.mask]
    if packed.shape != (-(-size // 8),):
        raise _bad(
            name, f"{entry.mask!r} has the shape {list(packed.shape)}, not [{-(-size // 8)}]"
        )
    bits = np.unpackbits(packed, bitorder="little")
    if bits[size:].any():
        raise _bad(name, f"{entry.mask!r} has bits beyond the last of {size} values")
    mask = bits[:size].astype(np.bool_).reshape(shape)
    if entry.pattern is not None and entry.axis is not None:
        n, m = entry.pattern
        groups = np.moveaxis(mask, entry.axis, -1)
        counts = groups.reshape(*groups.shape[:-1], -1, m).sum(-1)
        if counts.size and counts.max() > n:
            raise _bad(name, f"{counts.max()} of {m} values stay somewhere; the pattern is {n}:{m}")
    share = 1 - np.count_nonzero(mask) / max(size, 1)
    if size and abs(share - entry.sparsity) > _SHARE:
        raise _bad(name, f"{share:.6g} of {entry.mask!r} is zeros; the entry says {entry.sparsity}")
    return mask


def palette_of(
    name: str, shape: Sequence[int], entry: PalettizedWeight, arrays: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the indices of a weight, and the tables that they are places in.

    Args:
        name: The weight's name, for messages.
        shape: Its shape.
        entry: Its entry in the recipe.
        arrays: What the recipe's sidecar holds, by name.

    Returns:
        uint8 of *shape*, and float32 of shape ``(groups, 2 ** bits)``.

    Raises:
        OptimizeError: ``LPT-OPT-006`` an array has another shape, an index is beyond its table, or
            a value is NaN or infinite.
    """
    indices, tables = arrays[entry.indices], arrays[entry.palette]
    wanted = (entry.groups(shape), 2**entry.bits)
    for key, array, needed in (
        (entry.indices, indices, tuple(shape)),
        (entry.palette, tables, wanted),
    ):
        if array.shape != needed:
            raise _bad(name, f"{key!r} has the shape {list(array.shape)}, not {list(needed)}")
    if indices.size and indices.max() >= wanted[1]:
        raise _bad(name, f"the index {indices.max()} is beyond a table of {wanted[1]}")
    if not np.isfinite(tables).all():
        raise _bad(name, f"{entry.palette!r} holds a value that is not finite")
    return indices, tables


def check_zeros(
    name: str,
    mask: NDArray[np.bool_],
    entry: PalettizedWeight,
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Refuse a palette that gives a value that was pruned.

    Args:
        name: The weight's name, for messages.
        mask: Which of its values stay.
        entry: Its palette's entry in the recipe.
        arrays: What the recipe's sidecar holds, by name.

    Raises:
        OptimizeError: ``LPT-OPT-006`` as well where the palette does not fit the weight.
    """
    indices, tables = palette_of(name, mask.shape, entry, arrays)
    count = np.count_nonzero(palette_values(indices, tables, entry)[~mask])
    if count:
        raise _bad(name, f"{entry.indices!r} gives {count} values that are pruned, which are not 0")


def palette_values(
    indices: NDArray[np.uint8], tables: NDArray[np.float32], entry: PalettizedWeight
) -> NDArray[np.float32]:
    """Return the weight that indices stand for, float32 of their shape."""
    if entry.axis is None:
        return lk.depalettize(indices, tables[0])
    return lk.depalettize(indices, tables, axis=entry.axis, group_size=entry.group)


def _bad(name: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-006",
        f"The sidecar's arrays for {name!r} do not fit the weight",
        cause=cause,
        remedy="Write the recipe again, or remove the weight's entry; it then stays as it was.",
    )


__all__ = ["check_zeros", "pack_mask", "palette_of", "palette_values", "unpack_mask"]
