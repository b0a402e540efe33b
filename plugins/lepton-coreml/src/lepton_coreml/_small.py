"""Pruned weights and palettes of a recipe, in the forms that Core ML keeps on disk.

The lowered graph holds such weights whole. Here each gets the smallest form that its device has:
indices and tables, a mask and the values that stay, both together, or all of its values where a
form would be larger. Indices, tables and masks are the recipe's. Where Core ML has no type of their
width (5 and 7 bits; 3 bits on iOS 17), indices stand in the next wider one and tables are filled up
with zeros, which nothing points to; where groups do not divide an axis, tables are repeated. Both
give the same weight, bit by bit.

Forms after coremltools' ``ops/defs/iOS16/constexpr_ops.py`` and ``ops/defs/iOS18/compression.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lepton_core.errors import UnsupportedOperationError
from lepton_coreml._library import BITS, FORM, INPUTS, Form
from lepton_onnx.editing import replace_items
from lepton_onnx.sparse import palette_of, unpack_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import PalettizedWeight, Recipe

    Array = NDArray[Any]
    Weights = dict[str, Array]

WIDTHS = {"ios17": (1, 2, 4, 6, 8), "ios18": (1, 2, 3, 4, 6, 8)}
"""Bits of an index into a table, by device."""

_OVERHEAD = 512
"""Bytes that an operation and the headers of its constants take, about."""


@dataclass(frozen=True, slots=True)
class Palette:
    """One weight's palette as the recipe has it.

    Attributes:
        indices: uint8 in the weight's shape.
        tables: float32 ``(groups, 2 ** bits)``.
        axis: Axis that is divided into groups; ``None`` for one table.
        group: Channels of a group, the last may have fewer; ``None`` for one table.
    """

    indices: NDArray[np.uint8]
    tables: NDArray[np.float32]
    axis: int | None
    group: int | None

    def fitted(self, width: int) -> tuple[NDArray[np.float32], int]:
        """Return tables of ``2 ** width`` values for groups that divide the axis, and the axis."""
        count, entries = self.tables.shape
        full = np.zeros((count, 2**width), np.float32)
        full[:, :entries] = self.tables
        if count == 1 or self.axis is None or self.group is None:
            return full, 0
        channels = self.indices.shape[self.axis]
        own = math.gcd(self.group, channels)
        return full[np.arange(0, channels, own) // self.group], self.axis


@dataclass(frozen=True, slots=True)
class Small:
    """What a package must store of weights that are pruned or share a few values.

    Attributes:
        palettes: Those that are stored as indices and tables, by weight.
        masks: Which values stay, bool in the weight's shape, of weights stored with a mask.
        values: Float values of weights that have no palette, stored whole or with a mask, and of
            palettes that are larger than their values.
        integer_masks: Which integers stay, bool in the shape in which they are stored.
        facts: For the record, by weight: ``form``, ``bytes`` of it, and ``of``, those of float32;
            of palettes ``bits``, ``recipe_bits`` and ``tables``. A weight that stands in the
            package as floats and as integers, for different readers, has a second, ``w/int8``.
    """

    palettes: Mapping[str, Palette] = field(default_factory=dict)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    integer_masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def floats(self) -> Iterator[Array]:
        """Yield the floats that stand in the package for these weights."""
        for name, palette in self.palettes.items():
            yield palette.fitted(self.facts[name]["bits"])[0]
        for name, values in self.values.items():
            yield values[self.masks[name]] if name in self.masks else values


def write_small(
    model: ModelProto,
    recipe: Recipe,
    arrays: Mapping[str, Array],
    device: str,
    *,
    half: bool = False,
) -> Small:
    """Mark the palettes and pruned weights of a lowered graph with their form, in place.

    Each becomes a DequantizeLinear with the attribute :data:`~lepton_coreml._library.FORM`, on
    ``w/indices`` and ``w/tables``, or on ``w/dense``; a fourth input is the mask ``w/mask``. That
    of pruned integers gets the mask alone.

    Args:
        model: The graph that :func:`lepton_coreml._lower.lower` makes, weights in memory.
        recipe: What was lowered.
        arrays: The recipe's sidecar.
        device: ``"ios17"`` or ``"ios18"``.
        half: Whether floats are stored in 2 bytes: tables, and values that stay.

    Returns:
        What the package must store.

    Raises:
        OptimizeError: LPT-OPT-006, the sidecar does not fit.
        UnsupportedOperationError: LPT-CONV-508, a weight has several tables, and the device one.
    """
    writer = _Writer(model, device, 2 if half else 4)
    writer.masks_of(recipe, arrays)
    for name, entry in recipe.palettes.items():
        if name in writer.weights:
            shape = tuple(writer.weights[name].dims)
            indices, tables = palette_of(name, shape, entry, arrays)
            writer.palette(name, Palette(indices, tables, entry.axis, entry.group), entry)
    for name in recipe.pruned:
        if name in writer.weights and name not in recipe.palettes:
            writer.floats(name)
        if f"{name}/int8" in writer.weights:
            writer.integers(name, recipe)
    return writer.finish()


class _Writer:
    def __init__(self, model: ModelProto, device: str, width: int) -> None:
        self._model = model
        self._device = device
        self._width = width  # bytes of a float
        self.weights = {t.name: t for t in model.graph.initializer}
        self._all_masks: dict[str, NDArray[np.bool_]] = {}
        self._gone: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._new: Weights = {}
        self._palettes: dict[str, Palette] = {}
        self._masks: dict[str, NDArray[np.bool_]] = {}
        self._integer_masks: dict[str, NDArray[np.bool_]] = {}
        self._values: Weights = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def masks_of(self, recipe: Recipe, arrays: Mapping[str, Array]) -> None:
        """Read the masks of the weights that are there."""
        for name, entry in recipe.pruned.items():
            shape = self._shape(name, recipe)
            if shape is not None:
                self._all_masks[name] = unpack_mask(name, shape, entry, arrays)

    def _shape(self, name: str, recipe: Recipe) -> tuple[int, ...] | None:
        if name in self.weights:
            return tuple(self.weights[name].dims)
        codes = self.weights.get(f"{name}/int8")
        if codes is None:
            return None
        if name not in recipe.blocks:
            return tuple(codes.dims)
        found = next(n for n in self._model.graph.node if n.input and n.input[0] == codes.name)
        inputs = next(a.i for a in found.attribute if a.name == INPUTS)
        shape = (inputs, codes.dims[1])
        return shape if recipe.blocks[name].axis == 0 else shape[::-1]

    # --- forms --------------------------------------------------------------------------------

    def palette(self, name: str, palette: Palette, entry: PalettizedWeight) -> None:
        """Store a palette: whole, for what stays, or as the values that it gives."""
        if self._device == "ios17" and len(palette.tables) > 1:
            raise UnsupportedOperationError(
                "LPT-CONV-508",
                f"coreml:ios17 cannot hold this recipe: {name!r} has {len(palette.tables)} tables",
                cause="A palette of iOS 17 has one table for a weight; groups of channels with "
                "tables of their own need iOS 18.",
                remedy="Choose --to coreml:ios18, or make the palettes without --group.",
            )
        width = next(w for w in WIDTHS[self._device] if w >= entry.bits)
        tables, axis = palette.fitted(width)
        count, mask = palette.indices.size, self._usable_mask(name)
        held_tables = self._width * tables.size
        sizes = {
            "values": self._width * count,
            "palette": -(-count * width // 8) + held_tables + _OVERHEAD,
        }
        if mask is not None:
            held = -(-int(mask.sum()) * width // 8) + -(-count // 8)
            sizes["sparse palette"] = held + held_tables + 2 * _OVERHEAD
        form = self._chosen(name, count, sizes)
        self._facts[name] |= {
            "bits": width, "recipe_bits": entry.bits, "tables": len(palette.tables),
            "stored_tables": len(tables),
        }  # fmt: skip
        if form == "values":
            self._values[name] = numpy_helper.to_array(self.weights[name])
            return
        self._palettes[name] = palette
        self._gone.add(name)
        inputs = [self._add(f"{name}/indices", palette.indices),
                  self._add(f"{name}/tables", tables)]  # fmt: skip
        if form == "sparse palette":
            inputs += ["", self._mask(name)]
        self._node(inputs, name, Form.PALETTE, axis)

    def floats(self, name: str) -> None:
        """Store a float weight as a mask and what stays, if that is smaller."""
        values, mask = numpy_helper.to_array(self.weights[name]), self._all_masks[name]
        self._values[name] = values
        if values.dtype != np.float32:
            return
        held = self._width * int(mask.sum()) + -(-mask.size // 8) + _OVERHEAD
        sizes = {"values": self._width * values.size, "sparse": held}
        if self._chosen(name, mask.size, sizes) == "sparse":
            self._gone.add(name)
            self._node([self._add(f"{name}/dense", values), "", "", self._mask(name)], name,
                       Form.SPARSE, 0)  # fmt: skip

    def integers(self, name: str, recipe: Recipe) -> None:
        """Store integers as a mask and what stays, if that is smaller and the device has it."""
        codes = f"{name}/int8"
        nodes = [n for n in self._model.graph.node if n.input and n.input[0] == codes]
        plain = all(n.op_type == "DequantizeLinear" for n in nodes)
        mask = self._usable_mask(name)
        if mask is None or not plain:
            return
        bits = next((a.i for n in nodes for a in n.attribute if a.name == BITS), 8)
        held = -(-int(mask.sum()) * bits // 8) + -(-mask.size // 8) + _OVERHEAD
        sizes = {"integers": -(-mask.size * bits // 8), "sparse integers": held}
        key = codes if name in self._facts else name
        if self._chosen(key, mask.size, sizes) != "sparse integers":
            return
        if name in recipe.blocks:  # stored by inputs and outputs, and filled up
            rows, columns = self.weights[codes].dims
            turned = mask if recipe.blocks[name].axis == 0 else mask.T
            mask = np.zeros((rows, columns), np.bool_)
            mask[: len(turned)] = turned
        self._integer_masks[name] = mask
        stored = self._add(f"{codes}/mask", mask.astype(np.uint8))
        for node in nodes:
            node.input.extend([""] * (3 - len(node.input)) + [stored])

    def _usable_mask(self, name: str) -> NDArray[np.bool_] | None:
        """Return a weight's mask where the device can have one beside indices or integers."""
        return self._all_masks.get(name) if self._device == "ios18" else None

    def _chosen(self, key: str, count: int, sizes: Mapping[str, int]) -> str:
        form = min(sizes, key=lambda form: sizes[form])
        self._facts[key] = {"form": form, "bytes": sizes[form], "of": 4 * count}
        return form

    # --- parts --------------------------------------------------------------------------------

    def _mask(self, name: str) -> str:
        self._masks[name] = self._all_masks[name]
        return self._add(f"{name}/mask", self._all_masks[name].astype(np.uint8))

    def _add(self, name: str, array: Array) -> str:
        self._new[name] = np.ascontiguousarray(array)
        return name

    def _node(self, inputs: list[str], result: str, form: Form, axis: int) -> None:
        node = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/small")
        node.attribute.append(helper.make_attribute("axis", axis))
        node.attribute.append(helper.make_attribute(FORM, int(form)))
        self._nodes.append(node)

    def finish(self) -> Small:
        """Put the new nodes and constants in, and take out what they replace."""
        graph = self._model.graph
        replace_items(graph.node, [*self._nodes, *list(graph.node)])
        kept = [t for t in graph.initializer if t.name not in self._gone]
        new = [numpy_helper.from_array(array, name) for name, array in self._new.items()]
        replace_items(graph.initializer, [*kept, *new])
        return Small(self._palettes, self._masks, self._values, self._integer_masks, self._facts)


__all__ = ["WIDTHS", "Palette", "Small", "write_small"]
