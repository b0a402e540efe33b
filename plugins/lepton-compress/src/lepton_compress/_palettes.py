"""Palettes: weights whose values are places in a table of few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_compress._prunable import Site, find_sites
from lepton_core.recipe import PalettizedWeight
from lepton_onnx.sparse import palette_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_compress._graph import Graph
    from lepton_compress._options import Options

_STEPS = 3
"""Steps of Lloyd's iteration after a table was made to hold 0."""


@dataclass(frozen=True, slots=True)
class Palettes:
    """Weights that share the values of tables.

    Attributes:
        entries: Entries of a recipe, by weight.
        arrays: What its sidecar holds, by name there.
        errors: Relative error of each weight.
        kept: Why other weights stay float, by weight.
    """

    entries: Mapping[str, PalettizedWeight]
    arrays: Mapping[str, NDArray[Any]]
    errors: Mapping[str, float]
    kept: Mapping[str, str]

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says."""
        worst = max(self.errors, key=lambda name: self.errors[name])
        first = next(iter(self.entries.values()))
        return {
            "bits": first.bits,
            "group": first.group,
            "weights": len(self.entries),
            "largest_weight_error": {"weight": worst, "relative": round(self.errors[worst], 6)},
            "whole": dict(self.kept),
        }


def palettize_weights(graph: Graph, options: Options, pruned: frozenset[str]) -> Palettes:
    """Find tables of least squared error for the weights of products, and for lookups.

    Args:
        graph: The pivot, pruned if it is.
        options: Bits, and output channels that share a table.
        pruned: Weights whose zeros stay exactly 0.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to palettize.
    """
    sites, kept = find_sites(graph, options.keep, tables=True)
    entries, arrays, errors = {}, {}, {}
    for name, site in sites.items():
        values = graph.array(name)
        entry = _entry(name, site, options, values.shape)
        found = lk.palettize(
            values, entry.bits, axis=entry.axis, group_size=entry.group, threads=options.threads
        )
        indices, tables = found.indices, found.palette.reshape(-1, 2**entry.bits)
        if name in pruned:
            indices, tables = with_zero(values, tables, entry)
        entries[name] = entry
        arrays |= {entry.indices: indices, entry.palette: tables}
        errors[name] = _error(values, indices, tables, entry)
    return Palettes(entries, arrays, errors, kept)


def _entry(name: str, site: Site, options: Options, shape: tuple[int, ...]) -> PalettizedWeight:
    grouped = 0 < options.group < shape[site.outputs]
    return PalettizedWeight(
        options.palette,
        f"{name}/indices",
        f"{name}/palette",
        site.outputs if grouped else None,
        options.group if grouped else None,
    )


def with_zero(
    values: NDArray[np.float32], tables: NDArray[np.float32], entry: PalettizedWeight
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Move the value nearest to 0 of every table to 0, and the others to the means of theirs.

    Args:
        values: The weight, of any shape.
        tables: float32 ``(groups, entries)``, ascending.
        entry: How groups lie.

    Returns:
        uint8 indices of the weight's shape, those of exact zeros the place of 0; the new tables.
    """
    indices = np.empty(values.shape, np.uint8)
    axis = entry.axis or 0
    moved, places = np.moveaxis(values, axis, 0), np.moveaxis(indices, axis, 0)
    size = len(moved) if entry.group is None else entry.group
    made = tables.copy()
    for number, table in enumerate(made):
        own = slice(number * size, (number + 1) * size)
        flat = np.ascontiguousarray(moved[own]).reshape(-1).astype(np.float64)
        table[np.abs(table).argmin()] = 0
        table.sort()  # equal values that fill up a table may lie behind it
        zero = int(np.flatnonzero(table == 0)[0])
        for _ in range(_STEPS):
            near = _nearest(flat, table)
            counts = np.bincount(near, minlength=len(table))
            sums = np.bincount(near, flat, len(table))
            filled = counts > 0
            filled[zero] = False
            table[filled] = (sums[filled] / counts[filled]).astype(np.float32)
        near = _nearest(flat, table)
        near[flat == 0] = zero
        places[own] = near.reshape(moved[own].shape).astype(np.uint8)
    return indices, made


def _nearest(values: NDArray[np.float64], table: NDArray[np.float32]) -> NDArray[np.int64]:
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    return np.searchsorted(middles, values, side="left").astype(np.int64)


def _error(
    values: NDArray[np.float32],
    indices: NDArray[np.uint8],
    tables: NDArray[np.float32],
    entry: PalettizedWeight,
) -> float:
    lost = palette_values(indices, tables, entry).astype(np.float64) - values
    size = float(np.linalg.norm(values.astype(np.float64)))
    return float(np.linalg.norm(lost)) / size if size else 0.0


__all__ = ["Palettes", "palettize_weights", "with_zero"]
