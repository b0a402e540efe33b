"""Pruning weights: which values become 0, by magnitude or by what they contribute (Wanda).

Magnitudes: Han, Pool, Tran and Dally, "Learning both Weights and Connections", 2015. Wanda: Sun,
Liu, Bair and Kolter, "A Simple and Effective Pruning Approach for Large Language Models", 2023:
magnitude times the norm of the input, ranked for each output. N:M: Mishra et al., "Accelerating
Sparse Deep Neural Networks", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, numpy_helper

import lepton_kernels as lk
from lepton_compress._graph import Graph
from lepton_compress._powers import Powers, input_powers
from lepton_compress._prunable import Site, find_sites
from lepton_core.errors import OptimizeError
from lepton_core.recipe import PrunedWeight
from lepton_onnx.sparse import pack_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_compress._options import Options
    from lepton_core.context import Context
    from lepton_core.samples import Samples


@dataclass(frozen=True, slots=True)
class Pruning:
    """What was pruned.

    Attributes:
        graph: The pivot with zeros.
        entries: Entries of a recipe, by weight.
        arrays: What its sidecar holds for them, by name there.
        kept: Why other weights are whole, by weight.
        empty: Weights of which nothing is left.
    """

    graph: Graph
    entries: Mapping[str, PrunedWeight]
    arrays: Mapping[str, NDArray[Any]]
    kept: Mapping[str, str]
    empty: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever asked has to know."""
        if not self.empty:
            return ()
        named = ", ".join(map(repr, self.empty[:3]))
        more = f" and {len(self.empty) - 3} others" if len(self.empty) > 3 else ""
        return (f"Every value of {named}{more} is 0 now: these layers answer the same to all.",)

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says."""
        sizes = {name: self.graph.array(name).size for name in self.entries}
        zeros = sum(sizes[name] * entry.sparsity for name, entry in self.entries.items())
        first = next(iter(self.entries.values()))
        return {
            "method": first.method,
            "scope": first.scope,
            "pattern": first.pattern and "{}:{}".format(*first.pattern),
            "weights": len(self.entries),
            "sparsity": round(zeros / sum(sizes.values()), 6),
            "whole": dict(self.kept),
        }


def prune_weights(
    graph: Graph,
    options: Options,
    samples: Samples | None,
    context: Context | None,
    *,
    powers: Powers | None = None,
) -> Pruning:
    """Choose what becomes 0.

    Args:
        graph: The pivot; it is not changed.
        options: How much, by what, and what is ranked together.
        samples: Rows that Wanda observes inputs on.
        context: Opens the session; cancellation. Magnitudes need none.
        powers: What Wanda would observe, where it is known.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to prune, or the share is too small to
            prune a value, ``LPT-OPT-013`` an input is not finite for some sample, ``LPT-OPT-017``
            wanda without samples.
    """
    sites, kept = find_sites(graph, options.keep)
    if options.pattern is not None:
        sites, kept = _divisible(graph, sites, kept, options.pattern)
    scores = {name: graph.array(name) for name in sites}
    if options.prune == "wanda" and context is not None:
        scores = _wanda(graph, sites, samples, context, options, powers=powers)
    scope = options.scope or ("row" if options.prune == "wanda" or options.pattern else "layer")
    masks = _masks(sites, scores, options, scope)
    whole = {name: "its share rounds to no value" for name, mask in masks.items() if mask.all()}
    masks = {name: mask for name, mask in masks.items() if name not in whole}
    kept = {**kept, **whole}
    if not masks:
        raise OptimizeError(
            "LPT-OPT-012",
            f"A sparsity of {options.sparsity:g} prunes nothing here",
            cause=f"it rounds to no value of {len(whole)} weights",
            remedy="Give a larger --sparsity.",
            details={"kept": kept},
        )
    entries = {
        name: PrunedWeight(
            options.prune,
            float(round(1 - mask.mean(dtype=np.float64), 6)),
            f"{name}/mask",
            scope,
            options.pattern,
            sites[name].inputs if options.pattern else None,
        )
        for name, mask in masks.items()
    }
    arrays = {entries[name].mask: pack_mask(mask) for name, mask in masks.items()}
    empty = tuple(name for name, mask in masks.items() if not mask.any())
    return Pruning(_with_zeros(graph, masks), entries, arrays, kept, empty)


def _divisible(
    graph: Graph, sites: Mapping[str, Site], kept: Mapping[str, str], pattern: tuple[int, int]
) -> tuple[dict[str, Site], dict[str, str]]:
    """Leave out weights whose inputs do not make whole groups."""
    lengths = {name: graph.array(name).shape[site.inputs] for name, site in sites.items()}
    odd = {
        name: f"its {length} inputs make no whole groups of {pattern[1]}"
        for name, length in lengths.items()
        if length % pattern[1]
    }
    if len(odd) == len(sites):
        raise OptimizeError(
            "LPT-OPT-012",
            f"There is no weight for the pattern {pattern[0]}:{pattern[1]}",
            cause="; ".join(f"{name}: {why}" for name, why in list(odd.items())[:3]),
            remedy="Choose another pattern, or a sparsity.",
            details={"kept": {**kept, **odd}},
        )
    return {n: s for n, s in sites.items() if n not in odd}, {**kept, **odd}


def _wanda(
    graph: Graph,
    sites: Mapping[str, Site],
    samples: Samples | None,
    context: Context,
    options: Options,
    *,
    powers: Powers | None,
) -> dict[str, NDArray[np.float32]]:
    """Return magnitudes times the root mean square of the input, in each weight's shape."""
    if samples is None:
        raise OptimizeError(
            "LPT-OPT-017",
            "Pruning by wanda needs samples",
            cause="none were given, and noise says nothing about real inputs",
            remedy="Give real inputs with --data, or choose --prune magnitude.",
        )
    if powers is None:
        powers = input_powers(graph, sites, samples, context, options)
    found = {}
    for name, site in sites.items():
        values = graph.array(name)
        one = powers.vector(name)
        if one is not None:
            rows = _scores(site.rows(values), np.sqrt(one), site)
            found[name] = site.restored(rows, values.shape)
            continue
        each = powers.of(name, values.shape)  # products that read it in different ways, or nothing
        norms = np.float32(1) if each is None else np.sqrt(each).astype(np.float32)
        found[name] = np.abs(values) * norms
    return found


def _scores(
    rows: NDArray[np.float32], norms: NDArray[np.float64], site: Site
) -> NDArray[np.float32]:
    """Return scores of rows ``(outputs, inputs * kernel)``; groups of a Conv have own inputs."""
    parts = site.groups if site.op == "Conv" else 1
    inputs = len(norms) // parts
    scores = np.empty_like(rows)
    for part in range(parts):
        own = slice(part * len(rows) // parts, (part + 1) * len(rows) // parts)
        norm = norms[part * inputs : (part + 1) * inputs]
        scores[own] = lk.wanda_scores(rows[own], np.repeat(norm, rows.shape[1] // inputs))
    return scores


def _masks(
    sites: Mapping[str, Site],
    scores: Mapping[str, NDArray[np.float32]],
    options: Options,
    scope: str,
) -> dict[str, NDArray[np.bool_]]:
    names, threads = list(sites), options.threads
    if options.pattern is not None:
        n, m = options.pattern
        found = {}
        for name in names:
            groups = np.moveaxis(scores[name], sites[name].inputs, -1)
            mask = lk.nm_mask(groups, n, m, threads=threads)
            found[name] = np.moveaxis(mask, -1, sites[name].inputs)
        return found
    if scope == "global":
        masks = lk.prune_masks([scores[n] for n in names], options.sparsity, threads=threads)
        return dict(zip(names, masks, strict=True))
    return {
        name: lk.prune_mask(
            scores[name],
            options.sparsity,
            axis=sites[name].outputs if scope == "row" else None,
            threads=threads,
        )
        for name in names
    }


def _with_zeros(graph: Graph, masks: Mapping[str, NDArray[np.bool_]]) -> Graph:
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    for tensor in copy.graph.initializer:
        if tensor.name in masks:
            whole = graph.array(tensor.name)
            values = np.where(masks[tensor.name], whole, whole.dtype.type(0))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return Graph(copy)


__all__ = ["Pruning", "prune_weights"]
