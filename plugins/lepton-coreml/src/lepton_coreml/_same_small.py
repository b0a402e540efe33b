"""Whether a package stores the indices, tables and masks of its recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._integers import Reader, named
from lepton_coreml._mil._types import unpack
from lepton_coreml._prove import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lepton_coreml._mil._program import Operation, Program
    from lepton_coreml._small import Palette, Small

    Array = NDArray[Any]


_ROUNDED = {np.dtype(np.float32): 1e-6, np.dtype(np.float16): 2e-3}
"""Relative difference that rounding makes, once in a factor and once in a product, by type."""

_SMALLEST = {np.dtype(np.float32): 0.0, np.dtype(np.float16): 2.0**-24}
"""Distance of the smallest numbers, where it matters."""


@dataclass
class Found:
    """What a package stores of weights that are pruned or share a few values, by weight.

    Attributes:
        palettes: Indices in the weight's shape, and tables ``(groups, entries)`` along an axis;
            what a mask hides has the index 0.
        masks: Which values stand in the file, bool in the weight's shape.
        values: Float values of weights with a mask, whole.
        integer_masks: Which integers stand in the file, bool in their shape.
    """

    palettes: dict[str, tuple[Array, Array, int]] = field(default_factory=dict)
    masks: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    integer_masks: dict[str, Array] = field(default_factory=dict)


def read_small(program: Program) -> Found:
    """Read a package's palettes and masks, from the constants alone."""
    reader, found = Reader(program), Found()
    for operation in reader.operations:
        for role in ("palette", "sparse", "weight", "block"):
            carried = named(operation, role, reader.values)
            if carried is None:
                continue
            name, axis = carried
            if role == "palette":
                _palette(reader, operation, name, axis, found)
            elif role == "sparse":
                _sparse(reader, operation, name, found)
            elif operation.kind == "constexpr_sparse_blockwise_shift_scale":
                mask = np.asarray(reader.argument(operation, "data_mask"))
                found.integer_masks[name] = mask != 0
    return found


def _palette(reader: Reader, operation: Operation, name: str, axis: int, found: Found) -> None:
    lut, shape = (reader.argument(operation, key) for key in ("lut", "shape"))
    if operation.kind == "constexpr_lut_to_sparse":
        mask = np.asarray(reader.argument(operation, "indices_mask")) != 0
        held = np.asarray(reader.argument(operation, "indices_nonzero_data"))
        indices = np.zeros(mask.shape, held.dtype)
        indices[mask] = held
        found.masks[name] = mask
    else:
        indices = np.asarray(reader.argument(operation, "indices"))
        if shape is not None:
            bits = int(np.log2(lut.size))
            count = int(np.prod(shape, dtype=np.int64))
            wide = indices if bits == 8 else unpack(indices, f"uint{bits}", count)
            indices = wide.reshape([int(d) for d in shape])
    entries = lut.shape[-2] if shape is None else lut.size
    found.palettes[name] = (indices, np.reshape(lut, (-1, entries)), axis)


def _sparse(reader: Reader, operation: Operation, name: str, found: Found) -> None:
    mask = np.asarray(reader.argument(operation, "mask"))
    shape = reader.argument(operation, "shape")
    if shape is not None:
        count = int(np.prod(shape, dtype=np.int64))
        mask = unpack(mask, "uint1", count).reshape([int(d) for d in shape])
    held = np.asarray(reader.argument(operation, "nonzero_data"))
    whole = np.zeros(mask.shape, held.dtype)
    whole[mask != 0] = held
    found.masks[name], found.values[name] = mask != 0, whole


def compare_small(program: Program, wanted: Small) -> list[str]:
    """Compare a package's palettes, masks and values behind masks with those of a recipe.

    Args:
        program: The package's program.
        wanted: What it must store.

    Returns:
        What differs in any bit, of floats once they are rounded to the package's type; nothing if
        all is as it should be. Equal constants may be stored once, and of a weight stored whole
        each channel may be multiplied: see :func:`folded`.
    """
    found = read_small(program)
    return [
        *_palettes(found, wanted),
        *_masks(found, wanted),
        *_values(found, wanted),
        *_wholes(program, wanted),
    ]


def folded(program: Program, wanted: Small) -> list[str]:
    """Return weights stored whole whose values the package has nowhere, in any order of the axes.

    coremltools computes with floats that it knows: the scales of a normalisation behind a
    convolution, or a constant factor, go into the weight, as in a package without a recipe.
    """
    whole = {n: v for n, v in wanted.values.items() if n not in wanted.masks}
    there = {fingerprint(value) for value in _arrays(program)} if whole else set()
    return sorted(n for n, values in whole.items() if not there & set(_fingerprints(values)))


def _fingerprints(values: Array) -> list[str]:
    with np.errstate(over="ignore"):
        return [fingerprint(values), fingerprint(values.astype(np.float16))]


def halves_of(program: Program) -> set[str]:
    """Return the weights whose tables, or values behind a mask, are float16."""
    found = read_small(program)
    tables = {name for name, (_, held, _) in found.palettes.items() if held.dtype == np.float16}
    return tables | {name for name, held in found.values.items() if held.dtype == np.float16}


def _arrays(program: Program) -> Iterator[Array]:
    held = (constant.value for _, constant in program.constants())
    return (value for value in held if isinstance(value, np.ndarray))


def _wholes(program: Program, wanted: Small) -> Iterator[str]:
    """Hold weights stored whole against the package: as they are, or multiplied by channels."""
    for name in folded(program, wanted):
        values = wanted.values[name]
        if not any(_multiplied(values, held) for held in _arrays(program)):
            yield f"{name}: neither its values nor multiples of its channels are in the package"


def _multiplied(values: Array, held: Array) -> bool:
    """Tell whether an array is another one, its axes in any order, times a factor by channel."""
    if held.size != values.size or held.dtype.kind != "f":
        return False
    turned = (values.transpose(order) for order in permutations(range(values.ndim)))
    return any(_by_channel(own, held) for own in turned if own.shape == held.shape)


def _by_channel(values: Array, held: Array) -> bool:
    for axis in range(values.ndim):
        own, other = (
            np.moveaxis(array, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
            for array in (values, held)
        )
        most = np.abs(own).argmax(axis=1)[:, None]
        largest = np.take_along_axis(own, most, 1)
        factor = np.take_along_axis(other, most, 1) / np.where(largest == 0, 1.0, largest)
        if np.allclose(other, own * factor, rtol=_ROUNDED[held.dtype], atol=_SMALLEST[held.dtype]):
            return True
    return False


def _palettes(found: Found, wanted: Small) -> Iterator[str]:
    for name, palette in wanted.palettes.items():
        mask = wanted.masks.get(name)
        own = [found.palettes[name]] if name in found.palettes else found.palettes.values()
        reasons = [_palette_problem(one, palette, mask) for one in own]
        if not any(reason == "" for reason in reasons):
            yield f"{name}: {reasons[0] if reasons else 'the package has no palettes'}"


def _palette_problem(
    one: tuple[Array, Array, int], palette: Palette, mask: NDArray[np.bool_] | None
) -> str:
    """Return what differs; a table of the file stands for as many channels as divide the axis."""
    indices, tables, axis = one
    if indices.shape != palette.indices.shape:
        return "no palette of its shape"
    there = palette.indices if mask is None else np.where(mask, palette.indices, 0)
    count = int(np.count_nonzero(indices != there))
    if count:
        return f"{count} indices differ"
    entries = palette.tables.shape[1]
    channels = indices.shape[axis]
    group = palette.group if palette.group and len(palette.tables) > 1 else channels
    if len(tables) > 1 and axis != palette.axis:
        return "its groups run along another axis"
    by_channel = palette.tables[np.arange(channels) // group]
    if channels % len(tables) or (len(palette.tables) > 1 and axis != palette.axis):
        return "its groups are others"
    stored = np.repeat(tables[:, :entries], channels // len(tables), axis=0)
    same = stored.tobytes() == by_channel.astype(tables.dtype).tobytes()
    return "" if same else "values of its tables differ"


def _masks(found: Found, wanted: Small) -> Iterator[str]:
    kinds = ((wanted.masks, found.masks), (wanted.integer_masks, found.integer_masks))
    for masks, there in kinds:
        for name, mask in masks.items():
            own = [there[name]] if name in there else there.values()
            if not any(np.array_equal(one, mask) for one in own):
                yield f"{name}: other values are pruned, or none"


def _values(found: Found, wanted: Small) -> Iterator[str]:
    for name, mask in wanted.masks.items():
        values = wanted.values.get(name)
        if values is None:
            continue
        own = [found.values[name]] if name in found.values else found.values.values()
        kept = np.where(mask, values, values.dtype.type(0))
        if not any(_alike(one, kept) for one in own):
            yield f"{name}: values that stay differ"


def _alike(one: Array, other: Array) -> bool:
    """Tell whether a package's floats are others' bit by bit, in the type that it stores."""
    return one.shape == other.shape and one.tobytes() == other.astype(one.dtype).tobytes()


__all__ = ["Found", "compare_small", "folded", "halves_of", "read_small"]
