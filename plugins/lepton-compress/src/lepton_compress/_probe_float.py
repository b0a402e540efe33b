"""Asking for weights that stay float: pruned ones, and those of palettes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_compress._graph import Graph
from lepton_compress._palettes import palettize_weights
from lepton_compress._probe_graph import Planned
from lepton_compress._prunable import find_sites
from lepton_compress._pruning import prune_weights
from lepton_compress._sparse_options import PALETTE
from lepton_core.recipe import Layer, PivotId, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from lepton_compress._options import Options
    from lepton_core.recipe import PalettizedWeight, PrunedWeight

_SHARE = 0.5
"""What is pruned of a small copy where the share is still to be found."""


def planned_floats(graph: Graph, precision: str, options: Options) -> list[Planned]:
    """Return the operators whose weights the precision ``sparse`` or ``palette`` changes.

    Raises:
        OptimizeError: ``LPT-OPT-012``, there are none.
    """
    palette = precision == PALETTE
    sites, _ = find_sites(graph, options.keep, tables=palette)
    form = _form(options, palette=palette)
    return [
        Planned(node.output[0], Layer(node.op_type, node.output[0], (), name, mode="weight"),
                form=form)
        for name in sites
        for node in graph.readers[name][:1]
    ]  # fmt: skip


def _form(options: Options, *, palette: bool) -> str:
    parts = []
    if palette:
        group = f" for every {options.group} channels" if options.group else ""
        parts.append(f"palettes of {options.palette} bits{group}")
    if options.pattern is not None:
        parts.append("weights pruned {}:{}".format(*options.pattern))
    elif options.prunes or not palette:
        parts.append("pruned weights")
    return " of ".join(parts)


def small_float_recipe(
    model: ModelProto, planned: Sequence[Planned], digest: str, opset: int, options: Options
) -> tuple[Recipe, dict[str, NDArray[np.generic]]]:
    """Return the recipe of a small graph whose weights are pruned, palettized or both."""
    graph = Graph(model)
    palette = any("palette" in one.form for one in planned)
    own = replace(options, keep=(), prune="magnitude", scope="layer")
    if not own.prunes and not palette:
        own = replace(own, sparsity=_SHARE)
    pruned: Mapping[str, PrunedWeight] = {}
    tables: Mapping[str, PalettizedWeight] = {}
    arrays: dict[str, NDArray[np.generic]] = {}
    if own.prunes:
        made = prune_weights(graph, own, None, None)
        graph, pruned = made.graph, made.entries
        arrays |= made.arrays
    if palette:
        found = palettize_weights(graph, own, frozenset(pruned))
        tables = found.entries
        arrays |= found.arrays
    recipe = Recipe(
        PivotId(digest, opset), PALETTE if palette else "sparse", {}, {}, pruned=pruned,
        palettes=tables,
    )  # fmt: skip
    return recipe, arrays


__all__ = ["planned_floats", "small_float_recipe"]
