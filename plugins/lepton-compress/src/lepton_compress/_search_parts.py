"""The parts that every choice of a search is put together from; each is made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lepton_compress._channels import observe_axes
from lepton_compress._inputs import observe_inputs
from lepton_compress._palettes import Palettes, palettize_weights
from lepton_compress._powers import Powers, input_powers
from lepton_compress._products import Product, groups
from lepton_compress._prunable import Site, find_sites
from lepton_compress._pruning import Pruning, prune_weights
from lepton_compress._recover_bias import analytic, channel_axis, correctable
from lepton_compress._recover_recipe import halved
from lepton_compress._rounding import Rounded, round_group
from lepton_compress._scales import weights as weight_entries
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lepton_compress._graph import Graph
    from lepton_compress._job import Job
    from lepton_compress._recover_recipe import Recovery
    from lepton_compress._search_forms import Level
    from lepton_core.recipe import Correction, Layer, Recipe, Tensor
    from lepton_core.samples import Samples


@dataclass
class Parts:
    """What weights become in each form, whatever the others have.

    Attributes:
        job: The request.
        calibration: Rows to calibrate on.
        graph: The pivot with rescaled channels, if there are any.
        recovery: What was done to it.
        products: Products whose weights can be stored by block.
        rounded: Weights by block, by bits and by how much is pruned.
        prunings: What is pruned, by how much; of the pivot itself.
        zeros: The graph with these zeros.
        palettes: Palettes of the pivot's weights, by bits and by how much is pruned.
        corrections: Corrections of biases, by how much is pruned.
    """

    job: Job
    calibration: Samples
    graph: Graph
    recovery: Recovery
    products: Mapping[str, Product]
    rounded: dict[tuple[int, Level | None], Rounded] = field(default_factory=dict)
    prunings: dict[Level, Pruning] = field(default_factory=dict)
    zeros: dict[Level | None, Graph] = field(default_factory=dict)
    palettes: dict[tuple[int, Level | None], Palettes] = field(default_factory=dict)
    corrections: dict[Level | None, Mapping[str, Correction]] = field(default_factory=dict)
    _powers: Powers | None = None

    def __post_init__(self) -> None:
        self.zeros[None] = self.graph
        self.corrections[None] = self.recovery.corrections

    def sites(self, *, tables: bool) -> dict[str, Site]:
        """Return weights that can be pruned, or share a palette (*tables* as well)."""
        try:
            return find_sites(self.job.graph, self.job.options.keep, tables=tables)[0]
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return {}

    @property
    def powers(self) -> Powers:
        """Mean squares of what the pivot's weights multiply, observed once."""
        if self._powers is None:
            job, sites = self.job, self.sites(tables=True)
            rows = self.calibration
            self._powers = input_powers(job.graph, sites, rows, job.scratch, job.options)
        return self._powers

    # --- pruning ------------------------------------------------------------------------------

    def prune(self, level: Level) -> str:
        """Choose what becomes 0; return why nothing does, or nothing."""
        job = self.job
        options = level.options(job.options)
        try:
            powers = self.powers if options.prune == "wanda" else None
            made = prune_weights(job.graph, options, self.calibration, job.scratch, powers=powers)
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return error.cause or str(error)
        self.prunings[level] = made
        self.zeros[level] = self.recovery.on(made.graph)[0]
        return ""

    def pruned(self, weight: str, level: Level | None) -> bool:
        """Tell whether a weight is pruned so far; all are for nothing."""
        return level is None or (level in self.prunings and weight in self.prunings[level].entries)

    # --- integers -----------------------------------------------------------------------------

    def round(self, bits: int, level: Level | None = None) -> None:
        """Round the weights of products by block; what is pruned stays 0, so not by GPTQ."""
        if (bits, level) in self.rounded:
            return
        job, graph = self.job, self.zeros[level]
        method = (job.options.method or "gptq") if level is None else "mse"
        rounded = Rounded()
        products = tuple(replace(p, bits=bits) for p in self.products.values())
        parts = groups(tuple(p for p in products if self.pruned(p.weight, level)))
        title = f"round {len(products)} weights to {bits} bits"
        bar = job.context.reporter.task(title, len(parts))
        for number, group in enumerate(parts):
            inputs = None
            if method == "gptq":
                width = graph.array(group[0].weight).shape[group[0].axis]
                inputs = observe_inputs(
                    graph, group[0].source, width, self.calibration, job.scratch,
                    number=1000 * bits + number, threads=job.options.threads,
                )  # fmt: skip
            round_group(graph, group, job.options, rounded, method=method, inputs=inputs)
            bar.advance()
        bar.finish()
        self.rounded[bits, level] = rounded

    def entries(
        self, layers: Mapping[str, Layer], level: Level | None, static: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return entries of int8 weights; *static* are those of the values that layers read."""
        return weight_entries(self.zeros[level], layers, static)

    def correct(self, whole: Recipe, levels: Collection[Level]) -> None:
        """Find corrections of biases for pruned int8 weights, where there are some for whole ones.

        They make up for what pruning moves in the mean as well.

        Args:
            whole: Static int8 of everything, in the graph's names.
            levels: How much is pruned.
        """
        if not self.recovery.corrections:
            return
        layers = correctable(self.graph, whole)
        axes = [(v.inputs[0], channel_axis(self.graph, v.inputs[0], v.op)) for v in layers.values()]
        job = self.job
        seen = observe_axes(
            self.graph, axes, self.calibration, job.scratch, threads=job.options.threads
        )
        means = {place: one.mean for place, one in seen.items()}
        for level in levels:
            pruned = {n: v for n, v in layers.items() if self.pruned(v.weight or "", level)}
            if pruned:
                tensors = {**whole.tensors, **self.entries(pruned, level, whole.tensors)}
                narrow = set(self.recovery.narrow)
                tensors = {n: halved(t) if n in narrow else t for n, t in tensors.items()}
                recipe = replace(whole, tensors=tensors, layers=pruned)
                self.corrections[level] = analytic(
                    self.graph, recipe, means, stored=self.zeros[level]
                )

    # --- palettes -----------------------------------------------------------------------------

    def palettize(self, bits: int, level: Level | None = None) -> None:
        """Find tables for weights, with errors weighed by their inputs."""
        job = self.job
        options = replace(job.options, palette=bits)
        graph, pruned = job.graph, frozenset[str]()
        if level is not None:
            graph, pruned = self.prunings[level].graph, frozenset(self.prunings[level].entries)
        self.palettes[bits, level] = palettize_weights(graph, options, pruned, self.powers)


__all__ = ["Parts"]
