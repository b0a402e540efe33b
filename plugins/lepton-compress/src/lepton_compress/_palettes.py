"""Palettes: weights whose values are places in a table of few values.

Tables have the least squared error of the weights or, with samples, of what each weight makes of
its input: squared errors are then weighed by the mean square of the input. The same weighing, by
the diagonal of a Hessian, is in Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization", 2023.
"""

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
    from lepton_compress._powers import Powers

_STEPS = 3
"""Steps of Lloyd's iteration after a table was made to hold 0."""

_DRAWN = 1 << 16
"""Values that stand for a weighed distribution."""


@dataclass(frozen=True, slots=True)
class Palettes:
    """Weights that share the values of tables.

    Attributes:
        entries: Entries of a recipe, by weight.
        arrays: What its sidecar holds, by name there.
        errors: Relative error of each weight.
        weighed: Whether errors were weighed by inputs.
        kept: Why other weights stay float, by weight.
    """

    entries: Mapping[str, PalettizedWeight]
    arrays: Mapping[str, NDArray[Any]]
    errors: Mapping[str, float]
    weighed: bool
    kept: Mapping[str, str]

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says."""
        worst = max(self.errors, key=lambda name: self.errors[name])
        first = next(iter(self.entries.values()))
        return {
            "bits": first.bits,
            "group": first.group,
            "weighed": self.weighed,
            "weights": len(self.entries),
            "largest_weight_error": {"weight": worst, "relative": round(self.errors[worst], 6)},
            "whole": dict(self.kept),
        }


def palettize_weights(
    graph: Graph,
    options: Options,
    pruned: frozenset[str],
    powers: Powers | None = None,
) -> Palettes:
    """Find tables for the weights of products, and for lookups.

    Args:
        graph: The pivot, pruned if it is.
        options: Bits, and output channels that share a table.
        pruned: Weights whose zeros stay exactly 0.
        powers: Mean squares of inputs: what errors are weighed by.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to palettize.
    """
    sites, kept = find_sites(graph, options.keep, tables=True)
    entries, arrays, errors = {}, {}, {}
    for name, site in sites.items():
        values = graph.array(name)
        entry = _entry(name, site, options, values.shape)
        weights = None if powers is None else powers.of(name, values.shape)
        if weights is not None and not weights.any():
            weights = None
        indices, tables = _table(values, weights, entry, options.threads)
        if name in pruned:
            indices, tables = with_zero(values, tables, entry, weights)
        # A file holds tables of the weight's own type.
        tables = tables.astype(values.dtype).astype(np.float32)
        entries[name] = entry
        arrays |= {entry.indices: indices, entry.palette: tables}
        errors[name] = _error(values, indices, tables, entry)
    return Palettes(entries, arrays, errors, powers is not None, kept)


def _table(
    values: NDArray[np.floating],
    weights: NDArray[np.float64] | None,
    entry: PalettizedWeight,
    threads: int | None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return indices and tables ``(groups, entries)``."""
    if weights is None:
        found = lk.palettize(
            values, entry.bits, axis=entry.axis, group_size=entry.group, threads=threads
        )
        return found.indices, found.palette.reshape(-1, 2**entry.bits)
    tables = []
    for own in _groups(entry, values.shape):
        drawn = weighed(values[own], weights[own])
        tables.append(lk.palettize(drawn, entry.bits, threads=threads).palette)
    made = np.stack(tables)
    indices = np.empty(values.shape, np.uint8)
    for own, table in zip(_groups(entry, values.shape), made, strict=True):
        indices[own] = _nearest(values[own].astype(np.float64), table)
    return indices, made


def weighed(values: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return values drawn at even steps of their weights, so that each comes as often as it weighs.

    The table of least squared error of what is drawn has the least weighed error, up to one step.

    Args:
        values: Values of any shape.
        weights: How much each weighs, of the same shape, none negative.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    order = np.argsort(flat, kind="stable")
    heaps = np.cumsum(np.ascontiguousarray(weights).reshape(-1)[order])
    if not heaps[-1] > 0:
        return flat
    at = (np.arange(_DRAWN) + 0.5) / _DRAWN * heaps[-1]
    return flat[order[np.minimum(np.searchsorted(heaps, at), flat.size - 1)]]


def _groups(entry: PalettizedWeight, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return where the channels of each table lie."""
    if entry.axis is None or entry.group is None:
        return [tuple(slice(None) for _ in shape)]
    before = tuple(slice(None) for _ in range(entry.axis))
    starts = range(0, shape[entry.axis], entry.group)
    return [(*before, slice(start, start + entry.group)) for start in starts]


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
    values: NDArray[np.float32],
    tables: NDArray[np.float32],
    entry: PalettizedWeight,
    weights: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Move the value nearest to 0 of every table to 0, and the others to the means of theirs.

    Args:
        values: The weight, of any shape.
        tables: float32 ``(groups, entries)``, ascending.
        entry: How groups lie.
        weights: How much the error of each value weighs; alike without.

    Returns:
        uint8 indices of the weight's shape, those of exact zeros the place of 0; the new tables.
    """
    indices, made = np.empty(values.shape, np.uint8), tables.copy()
    for own, table in zip(_groups(entry, values.shape), made, strict=True):
        flat = values[own].astype(np.float64).reshape(-1)
        heavy = np.ones_like(flat) if weights is None else weights[own].reshape(-1)
        table[np.abs(table).argmin()] = 0
        table.sort()  # equal values that fill up a table may lie behind it
        zero = int(np.flatnonzero(table == 0)[0])
        for _ in range(_STEPS):
            near = _nearest(flat, table)
            heaps = np.bincount(near, heavy, len(table))
            sums = np.bincount(near, flat * heavy, len(table))
            filled = heaps > 0
            filled[zero] = False
            table[filled] = (sums[filled] / heaps[filled]).astype(np.float32)
        near = _nearest(flat, table)
        near[flat == 0] = zero
        indices[own] = near.reshape(values[own].shape)
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


__all__ = ["Palettes", "palettize_weights", "weighed", "with_zero"]
