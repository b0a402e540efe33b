"""What a search chooses between: a precision for each weight, and the recipe of a choice."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lepton_compress import __version__
from lepton_compress._build import (
    REQUIRES,
    all_values,
    choose_layers,
    in_order,
    static_recipe,
    tables,
)
from lepton_compress._calibrate import Range, observe
from lepton_compress._inputs import observe_inputs
from lepton_compress._plan import of_product, of_static
from lepton_compress._probe_graph import Planned
from lepton_compress._products import Product, choose_products, groups
from lepton_compress._rounding import Rounded, round_group
from lepton_compress._scales import observed_values
from lepton_compress._scales import weights as weight_entries
from lepton_compress._select import PRODUCTS
from lepton_core.errors import OptimizeError
from lepton_core.recipe import BlockWeight, Calibration, Layer, PivotId, Recipe, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_compress._job import Job
    from lepton_core.errors import LeptonError
    from lepton_core.samples import Samples

FLOAT, INT8, WEIGHT8, WEIGHT4 = "fp32", "int8", "int8-weight", "int4"
CHOICES = (FLOAT, INT8, WEIGHT8, WEIGHT4)
"""Float; int8 inputs and weights; weights alone in 8 bits; in 4 bits by block."""

_BITS = {WEIGHT8: 8, WEIGHT4: 4}

Assignment = Mapping[str, str]
"""A precision by unit."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Operators that share one weight, and so one precision.

    Attributes:
        name: First output of the first of them.
        op: Its type.
        layers: First outputs of all of them.
        weight: The weight.
        values: How many values it has.
        choices: Precisions that it can have, :data:`FLOAT` first.
    """

    name: str
    op: str
    layers: tuple[str, ...]
    weight: str
    values: int
    choices: tuple[str, ...]


@dataclass
class Space:
    """All choices for one pivot.

    Integers of weights do not depend on what other units have: GPTQ sees the float model's inputs.
    So every choice is put together from parts that are made once.

    Attributes:
        job: The request.
        calibration: Rows to calibrate on.
        units: By name, in topological order.
        ranges: Ranges of values, once they are needed.
        rounded: Weights by block, by number of bits, once they are needed.
        refused: What the target does not hold, and why, for people.
    """

    job: Job
    calibration: Samples
    units: dict[str, Unit] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    rounded: dict[int, Rounded] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._static = self._static_layers()
        self._products = self._block_products()
        self._tables = tables(self.job.graph, self.job.options.keep)
        self.units = self._find_units()
        if not self.units:
            choose_layers(self.job.graph, self.job.options.keep)  # says why there is none

    # --- units --------------------------------------------------------------------------------

    def _static_layers(self) -> dict[str, Layer]:
        try:
            found = choose_layers(self.job.graph, self.job.options.keep).layers
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return {}
        return found

    def _block_products(self) -> dict[str, Product]:
        options = replace(self.job.options, bits=4, ends=2)
        keep = set(options.keep)
        try:
            found = choose_products(self.job.graph, options).products
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return {}
        nodes = self.job.graph.nodes
        return {p.name: p for p in found if not keep & {p.name, nodes[p.name].name, p.op, p.weight}}

    def _find_units(self) -> dict[str, Unit]:
        graph = self.job.graph
        by_weight: dict[str, list[str]] = {}
        for name, node in graph.nodes.items():
            layer = self._static.get(name)
            if layer is not None and layer.op in PRODUCTS and layer.weight:
                by_weight.setdefault(layer.weight, []).append(name)
            elif name in self._products:
                by_weight.setdefault(self._products[name].weight, []).append(name)
            elif name in self._tables:
                by_weight.setdefault(node.input[0], []).append(name)
        found = {}
        for weight, names in by_weight.items():
            choices = self._choices(names)
            if len(choices) > 1:
                first = graph.nodes[names[0]]
                size = int(graph.array(weight).size)
                found[names[0]] = Unit(names[0], first.op_type, tuple(names), weight, size, choices)
        return found

    def _choices(self, names: list[str]) -> tuple[str, ...]:
        ops = {self.job.graph.nodes[n].op_type for n in names}
        can = {FLOAT}
        if all(n in self._static for n in names):
            can.add(INT8)
        if all(n in self._products for n in names):
            can |= {WEIGHT8, WEIGHT4}
        if ops <= {"Conv", "ConvTranspose"} or all(n in self._tables for n in names):
            can.add(WEIGHT8)
        return tuple(choice for choice in CHOICES if choice in can)

    def alike(self) -> list[tuple[str, list[str]]]:
        """Return every precision with units whose weights it stores in the same form."""
        found: dict[tuple[str, bool], list[str]] = {}
        for unit in self.units.values():
            for choice in unit.choices:
                if choice != FLOAT:
                    found.setdefault((choice, unit.name in self._products), []).append(unit.name)
        return [(choice, names) for (choice, _), names in found.items()]

    def planned(self, choice: str, names: list[str]) -> list[Planned]:
        """Return the operators of units as a precision would have them, to be asked for."""
        layers = [name for unit in names for name in self.units[unit].layers]
        if choice == INT8:
            return [p for p in of_static(self._static) if p.name in layers]
        if names[0] in self._products:
            bits = _BITS[choice]
            return [of_product(replace(self._products[n], bits=bits)) for n in layers]
        nodes = {name: self.job.graph.nodes[name] for name in layers}
        at = {name: node.op_type != "Gather" for name, node in nodes.items()}
        return [
            Planned(n, Layer(node.op_type, n, (), node.input[at[n]], mode="weight"))
            for n, node in nodes.items()
        ]

    def leave_out(self, choice: str, names: list[str], why: LeptonError) -> None:
        """Take a precision from units, as the target does not hold it.

        Raises:
            LeptonError: Nothing is left to choose: *why*.
        """
        held = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
        self.refused.append(f"{choice} is left out for {held}: {why.cause or why}")
        for name in names:
            unit = self.units.pop(name)
            left = tuple(one for one in unit.choices if one != choice)
            if len(left) > 1:
                self.units[name] = replace(unit, choices=left)
        self.units = {n: self.units[n] for n in self.job.graph.nodes if n in self.units}
        if not self.units:
            raise why

    # --- parts --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the parts that every choice is put together from: ranges, and rounded weights."""
        used = {choice for unit in self.units.values() for choice in unit.choices}
        if INT8 in used:
            self._observe(all_values(self.job.graph, self._static.values()))
        for choice in (WEIGHT8, WEIGHT4):
            if choice in used and self._products:
                self._round(_BITS[choice])

    def _observe(self, names: list[str]) -> None:
        job = self.job
        self.ranges |= observe(
            job.graph, names, self.calibration, job.scratch, job.options.estimator,
            threads=job.options.threads,
        )  # fmt: skip

    def _round(self, bits: int) -> None:
        job = self.job
        method = job.options.method or "gptq"
        rounded = Rounded()
        products = tuple(replace(p, bits=bits) for p in self._products.values())
        parts = groups(products)
        bar = job.context.reporter.task(f"round {len(products)} weights to {bits} bits", len(parts))
        for number, group in enumerate(parts):
            inputs = None
            if method == "gptq":
                width = job.graph.array(group[0].weight).shape[group[0].axis]
                inputs = observe_inputs(
                    job.graph, group[0].source, width, self.calibration, job.scratch,
                    number=1000 * bits + number, threads=job.options.threads,
                )  # fmt: skip
            round_group(job.graph, group, job.options, rounded, method=method, inputs=inputs)
            bar.advance()
        bar.finish()
        self.rounded[bits] = rounded

    # --- the recipe of a choice ---------------------------------------------------------------

    def recipe(
        self, chosen: Assignment, reasons: Mapping[str, str] | None = None
    ) -> tuple[Recipe | None, dict[str, NDArray[np.generic]]]:
        """Return the recipe of a choice and what its sidecar holds; ``None`` if all is float.

        Args:
            chosen: Precision by unit; units left out are float.
            reasons: Why a unit is float, for the record.
        """
        picked = {name: chosen.get(name, FLOAT) for name in self.units}
        if all(choice == FLOAT for choice in picked.values()):
            return None, {}
        static = self._static_part(picked)
        parts = _Parts()
        if static is not None:
            parts.layers |= static.layers
            parts.tensors |= static.tensors
        for name, choice in picked.items():
            if choice in _BITS:
                self._add_weight(self.units[name], choice, parts)
        job, graph = self.job, self.job.graph
        kept = dict(static.kept_float) if static else {}
        kept |= {n: "the search keeps it float" for n, c in picked.items() if c == FLOAT}
        kept |= {n: why for n, why in (reasons or {}).items() if picked.get(n) == FLOAT}
        seen = self.calibration
        recipe = Recipe(
            PivotId(job.base.digest, job.opset),
            _scheme(set(picked.values()) - {FLOAT}),
            in_order(graph, parts.tensors),
            {n: parts.layers[n] for n in graph.nodes if n in parts.layers},
            {n: kept[n] for n in graph.nodes if n in kept and n not in parts.layers},
            REQUIRES if static else {},
            Calibration(len(seen), seen.digest, job.options.estimator, seen.origin),
            written_by=f"lepton-compress {__version__}",
            notes=tuple(dict.fromkeys(n for r in self.rounded.values() for n in r.notes)),
            blocks=in_order(graph, parts.blocks),
        )
        return recipe, parts.arrays

    def _static_part(self, picked: Assignment) -> Recipe | None:
        if INT8 not in picked.values():
            return None
        job = self.job
        others = [n for u in self.units.values() if picked[u.name] != INT8 for n in u.layers]
        keep = (*job.options.keep, *others)
        with self._lock:
            wanted = observed_values(job.graph, choose_layers(job.graph, keep).layers)
            missing = [name for name in wanted if name not in self.ranges]
            if missing:
                self._observe(missing)
        return static_recipe(
            job.graph, job.base.digest, job.opset, self.calibration, job.scratch,
            estimator=job.options.estimator, keep=keep, ranges=self.ranges,
        )[0]  # fmt: skip

    def _add_weight(self, unit: Unit, choice: str, parts: _Parts) -> None:
        graph = self.job.graph
        mine = {
            name: Layer(graph.nodes[name].op_type, name, (), unit.weight, mode="weight")
            for name in unit.layers
        }
        parts.layers |= mine
        if unit.name not in self._products:
            parts.tensors |= weight_entries(graph, mine, {})
            return
        rounded = self.rounded[_BITS[choice]]
        entry = rounded.entries[unit.weight]
        parts.blocks[unit.weight] = entry
        parts.arrays |= {name: rounded.arrays[name] for name in entry.stored}


@dataclass
class _Parts:
    """A recipe as it is put together, and what its sidecar holds."""

    layers: dict[str, Layer] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, BlockWeight] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)


def _scheme(used: set[str]) -> str:
    if used == {INT8}:
        return "int8-static"
    if INT8 in used:
        return "mixed"
    return "int4-weight-only" if WEIGHT4 in used else "int8-weight-only"


__all__ = ["CHOICES", "FLOAT", "INT8", "WEIGHT4", "WEIGHT8", "Assignment", "Space", "Unit"]
