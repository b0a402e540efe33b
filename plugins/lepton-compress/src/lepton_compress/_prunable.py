"""The weights of products: which of them can be pruned or share a palette, and how they lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._graph import Graph, attribute, names_of
from lepton_compress._select import PRODUCTS
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from onnx import NodeProto

SMALLEST = 1024
"""Weights of fewer values stay as they are: what would describe them is as large as they are."""


@dataclass(frozen=True, slots=True)
class Site:
    """A weight and the first operator that reads it.

    Attributes:
        weight: The weight.
        op: Type of the operator.
        source: The value that the operator multiplies; empty for a lookup.
        channels: Axis of the source that runs over inputs, ``None`` where that is not known.
        outputs: Axis of the weight that runs over outputs.
        inputs: Axis of the weight that runs over inputs.
        groups: Groups of a convolution.
        others: The same of other products that read the weight.
    """

    weight: str
    op: str
    source: str
    channels: int | None
    outputs: int
    inputs: int
    groups: int = 1
    others: tuple[Site, ...] = ()

    @property
    def layout(self) -> tuple[int, int, int]:
        """How inputs lie in the weight: its axes, and the parts that inputs are divided into."""
        return self.outputs, self.inputs, self.groups if self.op == "Conv" else 1

    def rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the weight as ``(outputs, inputs * kernel)``."""
        moved = np.moveaxis(values, (self.outputs, self.inputs), (0, 1))
        return np.ascontiguousarray(moved).reshape(moved.shape[0], -1)

    def restored(self, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Undo :meth:`rows` for a weight of *shape*."""
        kernel = [n for axis, n in enumerate(shape) if axis not in (self.outputs, self.inputs)]
        moved = rows.reshape(shape[self.outputs], shape[self.inputs], *kernel)
        return np.ascontiguousarray(np.moveaxis(moved, (0, 1), (self.outputs, self.inputs)))

    def per_input(self, numbers: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return for every value of a weight of *shape* the number of the input that it multiplies.

        Args:
            numbers: One for each channel of the source.
            shape: The weight's.
        """
        outputs, inputs = shape[self.outputs], shape[self.inputs]
        parts = self.groups if self.op == "Conv" else 1
        rows = np.repeat(numbers.reshape(parts, inputs), outputs // parts, axis=0)
        kernel = int(np.prod(shape, dtype=np.int64)) // (outputs * inputs)
        return self.restored(np.repeat(rows, kernel, axis=1), shape)


def find_sites(
    graph: Graph, keep: Collection[str], *, tables: bool = False
) -> tuple[dict[str, Site], dict[str, str]]:
    """Return the weights of products, and why others stay as they are, both by weight.

    Args:
        graph: The pivot.
        keep: Names of values, nodes, weights or operator types that stay as they are; a weight
            that several operators read stays if one of them is named.
        tables: Whether the tables of lookups (Gather) are meant as well.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is none.
    """
    sites: dict[str, Site] = {}
    kept: dict[str, str] = {}
    for node in graph.nodes.values():
        site = _site(graph, node, tables=tables)
        if site is None or site.weight in sites or site.weight in kept:
            continue
        why = _why_kept(graph, site, keep)
        if why:
            kept[site.weight] = why
        else:
            sites[site.weight] = replace(site, others=_others(graph, node, site, tables=tables))
    if not sites:
        raise OptimizeError(
            "LPT-OPT-012",
            "There is no weight to prune or to palettize",
            cause="; ".join(f"{name}: {why}" for name, why in list(kept.items())[:3])
            or "no product reads a constant weight",
            remedy="Leave the model as it is, or give fewer names with --option keep.",
            details={"kept": kept},
        )
    return sites, kept


def _others(graph: Graph, first: NodeProto, site: Site, *, tables: bool) -> tuple[Site, ...]:
    """Return what products but the first make of a weight."""
    readers = [node for node in graph.readers[site.weight] if node is not first]
    found = (_site(graph, node, tables=tables) for node in readers)
    return tuple(other for other in found if other is not None and other.weight == site.weight)


def _site(graph: Graph, node: NodeProto, *, tables: bool) -> Site | None:
    """Return the weight that a product or a lookup reads, if it is a float constant."""
    op, plain = node.op_type, node.domain in ("", "ai.onnx")
    if plain and op in PRODUCTS:
        weight = node.input[1]
    elif plain and op == "Gather" and tables:
        weight = node.input[0]
    else:
        return None
    if weight not in graph.weights or not graph.is_real(weight):
        return None
    if op in ("Conv", "ConvTranspose"):
        axes = (0, 1) if op == "Conv" else (1, 0)
        return Site(weight, op, node.input[0], 1, *axes, int(attribute(node, "group", 1)))
    return _matrix(graph, node, weight) if len(graph.shapes[weight]) == 2 else None


def _matrix(graph: Graph, node: NodeProto, weight: str) -> Site:
    op, source = node.op_type, node.input[0]
    if op == "Gather":
        return Site(weight, op, "", None, 1, 0)
    if op == "Gemm":
        axes = (0, 1) if attribute(node, "transB", 0) else (1, 0)
        return Site(weight, op, source, 0 if attribute(node, "transA", 0) else 1, *axes)
    rank = len(graph.shapes.get(source, ()))
    return Site(weight, op, source, rank - 1 if rank else None, 1, 0)


def _why_kept(graph: Graph, site: Site, keep: Collection[str]) -> str:
    values = graph.array(site.weight)
    names = {site.weight}.union(*(names_of(node) for node in graph.readers[site.weight]))
    checks = (
        (bool(names & set(keep)), "asked for"),
        (values.size < SMALLEST, f"it has fewer than {SMALLEST} values"),
        (site.weight in graph.outputs, "it is an output of the model"),
        (not np.isfinite(values).all(), "it holds NaN or infinite values"),
    )
    return next((why for applies, why in checks if applies), "")


__all__ = ["SMALLEST", "Site", "find_sites"]
