"""What a search chooses between: a form for each weight, and the recipe of a choice."""

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
from lepton_compress._products import Product, choose_products
from lepton_compress._recover_recipe import Recovery, halved
from lepton_compress._scales import observed_values
from lepton_compress._search_forms import (
    BLOCK_BITS,
    FLOAT,
    INT8,
    PALETTE,
    WEIGHT4,
    WEIGHT8,
    WHOLE,
    Form,
    forms_of,
    next_better,
    offered_by,
)
from lepton_compress._search_parts import Parts
from lepton_compress._select import PRODUCTS
from lepton_core.errors import OptimizeError
from lepton_core.recipe import (
    BlockWeight,
    Calibration,
    Layer,
    PalettizedWeight,
    PivotId,
    PrunedWeight,
    Recipe,
    Tensor,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lepton_compress._job import Job
    from lepton_core.errors import LeptonError
    from lepton_core.samples import Samples

Assignment = Mapping[str, str]
"""A form's name by unit."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Operators that share one weight, and so one form.

    Attributes:
        name: First output of the first of them.
        op: Its type.
        layers: First outputs of all of them.
        weight: The weight.
        values: How many values it has.
        choices: Forms that it can have, :data:`FLOAT` first.
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

    Integers, masks and tables of a weight do not depend on what other units have: GPTQ sees the
    float model's inputs. So every choice is put together from parts that are made once.

    Attributes:
        job: The request.
        calibration: Rows to calibrate on.
        recovery: What is done to the float graph first; nothing by default.
        forms: What units can have, by name, float first.
        units: By name, in topological order.
        ranges: Ranges of values, once they are needed.
        refused: What the target does not hold, and why, for people.
        graph: The pivot after recovery.
        static: Layers that static int8 computes, of that graph.
        products: Its products whose weights can be stored by block.
    """

    job: Job
    calibration: Samples
    recovery: Recovery = field(default_factory=Recovery)
    forms: dict[str, Form] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.forms = forms_of(self.job.options)
        if self.job.context.hooks is not None:
            info = self.job.context.hooks.registry.target(self.job.request.target)
            self.forms, self.refused = offered_by(info, self.forms)
        self.graph, self._names = self.recovery.on(self.job.graph)
        self.static = self._find_static()
        self.products = self._block_products()
        self._tables = tables(self.graph, self.job.options.keep)
        self._parts = Parts(self.job, self.calibration, self.graph, self.recovery, self.products)
        self.units = self._find_units()
        if not self.units:
            choose_layers(self.graph, self.job.options.keep)  # says why there is none

    @property
    def what(self) -> str:
        """What is chosen, for people."""
        return "choice of precisions"

    @property
    def computes_integers(self) -> bool:
        """Whether any unit can be static int8."""
        return any(INT8 in unit.choices for unit in self.units.values())

    # --- units --------------------------------------------------------------------------------

    def _find_static(self) -> dict[str, Layer]:
        try:
            found = choose_layers(self.graph, self.job.options.keep).layers
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return {}
        return found

    @property
    def _without_choice(self) -> list[str]:
        """Products of static int8 that belong to no unit: none may be int8 with the others."""
        held = {name for unit in self.units.values() for name in unit.layers}
        layers = self.static.items()
        return [n for n, v in layers if v.op in PRODUCTS and v.weight and n not in held]

    def _block_products(self) -> dict[str, Product]:
        options = replace(self.job.options, bits=4, ends=2)
        keep = set(options.keep)
        try:
            found = choose_products(self.graph, options).products
        except OptimizeError as error:
            if error.code != "LPT-OPT-012":
                raise
            return {}
        nodes = self.graph.nodes
        return {p.name: p for p in found if not keep & {p.name, nodes[p.name].name, p.op, p.weight}}

    def _find_units(self) -> dict[str, Unit]:
        graph = self.graph
        by_weight: dict[str, list[str]] = {}
        more = self._palettized() | self._prunable()
        for name, node in graph.nodes.items():
            layer = self.static.get(name)
            if layer is not None and layer.op in PRODUCTS and layer.weight:
                by_weight.setdefault(layer.weight, []).append(name)
            elif name in self.products:
                by_weight.setdefault(self.products[name].weight, []).append(name)
            elif name in self._tables:
                by_weight.setdefault(node.input[0], []).append(name)
            else:
                for weight in more & set(node.input):
                    by_weight.setdefault(weight, []).append(name)
        found = {}
        for weight, names in by_weight.items():
            choices = self._choices(names, weight)
            if len(choices) > 1:
                first = graph.nodes[names[0]]
                size = int(graph.array(weight).size)
                found[names[0]] = Unit(names[0], first.op_type, tuple(names), weight, size, choices)
        return found

    def _choices(self, names: list[str], weight: str) -> tuple[str, ...]:
        ops = {self.graph.nodes[n].op_type for n in names}
        can = {FLOAT}
        if all(n in self.static for n in names):
            can.add(INT8)
        if all(n in self.products for n in names):
            can |= {WEIGHT8, WEIGHT4}
        if ops <= {"Conv", "ConvTranspose"} or all(n in self._tables for n in names):
            can.add(WEIGHT8)
        if weight in self._palettized():
            can.add(PALETTE)
        prunable = weight in self._prunable()
        return tuple(
            name
            for name, form in self.forms.items()
            if form.base in can and (form.level is None or prunable)
        )

    def _palettized(self) -> set[str]:
        """Return weights that can share a palette; a recipe has none for rescaled channels."""
        if not self.job.options.palettes:
            return set()
        entries = self.recovery.rescaled.values()
        scaled = {name for entry in entries for name in (*entry.divided, *entry.multiplied)}
        return set(self._parts.sites(tables=True)) - scaled

    def _prunable(self) -> set[str]:
        if not any(form.level for form in self.forms.values()):
            return set()
        return set(self._parts.sites(tables=False))

    def alike(self) -> list[tuple[Form, list[str]]]:
        """Return every form with units whose weights it stores alike, the largest first."""
        found: dict[tuple[str, bool], list[str]] = {}
        for unit in sorted(self.units.values(), key=lambda u: -u.values):
            for choice in unit.choices:
                if choice != FLOAT:
                    found.setdefault((choice, unit.name in self.products), []).append(unit.name)
        order = {name: place for place, name in enumerate(self.forms)}
        groups = sorted(found.items(), key=lambda item: order[item[0][0]])
        return [(self.forms[choice], names) for (choice, _), names in groups]

    def leave_out(self, choice: str, names: Sequence[str], cause: str) -> None:
        """Take a form from units, as the target does not hold it, and say so."""
        self.note_left_out(choice, names, cause)
        self.take(choice, names)

    def note_left_out(self, choices: str, names: Sequence[str], cause: str) -> None:
        """Say that forms were taken from units, and why."""
        held = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
        left = "is" if ", " not in choices else "are"
        self.refused.append(f"{choices} {left} left out for {held}: {cause}")

    def take(self, choice: str, names: Sequence[str]) -> None:
        """Take a form from units; those with no choice left are no units any more."""
        for name in [n for n in names if n in self.units]:
            unit = self.units.pop(name)
            left = tuple(one for one in unit.choices if one != choice)
            if len(left) > 1:
                self.units[name] = replace(unit, choices=left)
        self.units = {n: self.units[n] for n in self.graph.nodes if n in self.units}

    def require_units(self, why: LeptonError | None) -> None:
        """Refuse where nothing is left to choose.

        Raises:
            LeptonError: *why*.
        """
        if not self.units and why is not None:
            raise why

    def has(self, unit: Unit, form: Form) -> Form:
        """Return *form*, or the next better one that a unit can have."""
        while form.name not in unit.choices:
            form = next_better(form, self.forms.values())
        return form

    def stored(self, chosen: Assignment) -> float:
        """Return the bytes that the weights of units take in these forms, about."""
        bits = {name: self.forms[chosen.get(name, FLOAT)].stored_bits for name in self.units}
        return sum(unit.values * bits[name] / 8 for name, unit in self.units.items())

    # --- parts --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the parts that every choice is put together from."""
        levels = dict.fromkeys(form.level for form in self.forms.values() if form.level)
        for level in levels:
            why = self._parts.prune(level)
            if why:
                self.refused.append(f"Pruning {level} is left out: {why}")
        for form in [f for f in self.forms.values() if f.level is not None]:
            lacks = [u.name for u in self.units.values() if form.name in u.choices
                     and not self._parts.pruned(u.weight, form.level)]  # fmt: skip
            self.take(form.name, lacks)
        used = {self.forms[choice] for unit in self.units.values() for choice in unit.choices}
        if Form(INT8) in used:
            self._observe(all_values(self.graph, self.static.values()))
            self._parts.correct(self._static_recipe(()), self._parts.prunings)
        for form in (f for f in self.forms.values() if f in used):
            if form.base in BLOCK_BITS and self.products:
                self._parts.round(BLOCK_BITS[form.base], form.level)
            elif form.base == PALETTE:
                self._parts.palettize(form.bits, form.level)

    def _observe(self, names: list[str]) -> None:
        job = self.job
        self.ranges |= observe(
            self.graph, names, self.calibration, job.scratch, job.options.estimator,
            threads=job.options.threads,
        )  # fmt: skip

    # --- the recipe of a choice ---------------------------------------------------------------

    def recipe(
        self, chosen: Assignment, reasons: Mapping[str, str] | None = None
    ) -> tuple[Recipe | None, dict[str, NDArray[np.generic]]]:
        """Return the recipe of a choice and what its sidecar holds; ``None`` if all is float.

        Args:
            chosen: Form by unit; units left out are float.
            reasons: Why a unit is float, for the record.
        """
        picked = {name: self.forms[chosen.get(name, FLOAT)] for name in self.units}
        if all(form == Form(FLOAT) for form in picked.values()):
            return None, {}
        static = self._static_part(picked)
        made = _Made()
        if static is not None:
            made.layers |= static.layers
            made.tensors |= static.tensors
        for name, form in picked.items():
            self._add(self.units[name], form, made)
        job, graph = self.job, self.graph
        kept = dict(static.kept_float) if static else {}
        kept |= dict.fromkeys(self._without_choice, "int8 is left out for its weight")
        kept |= {n: f.why_float or "the search keeps it float" for n, f in picked.items()
                 if f.base == FLOAT or f.why_float}  # fmt: skip
        whole = {n for n, f in picked.items() if f == Form(FLOAT)}
        kept |= {n: why for n, why in (reasons or {}).items() if n in whole}
        seen = self.calibration
        recipe = Recipe(
            PivotId(job.base.digest, job.opset),
            _scheme(set(picked.values()) - {Form(FLOAT)}),
            in_order(graph, made.tensors),
            {n: made.layers[n] for n in graph.nodes if n in made.layers},
            {n: kept[n] for n in graph.nodes if n in kept and n not in made.layers},
            REQUIRES if static else {},
            Calibration(len(seen), seen.digest, job.options.estimator, seen.origin),
            written_by=f"lepton-compress {__version__}",
            notes=tuple(dict.fromkeys(n for r in self._parts.rounded.values() for n in r.notes)),
            blocks=in_order(graph, made.blocks),
            pruned=in_order(graph, made.pruned),
            palettes=in_order(graph, made.palettes),
        )
        return self._recovered(recipe, picked), made.arrays

    def _recovered(self, recipe: Recipe, picked: Mapping[str, Form]) -> Recipe:
        """Return a recipe in the pivot's names, with what was done to the graph."""
        recipe = self._names.pivot_recipe(recipe)
        integers = {*recipe.blocks, *recipe.tensors}
        rescaled = {
            value: entry
            for value, entry in self.recovery.rescaled.items()
            if integers & {value, *entry.divided, *entry.multiplied}
            or (entry.divided and recipe.tensors)
        }
        corrections = {}
        for name, form in picked.items():
            for layer in self.units[name].layers if form.base == INT8 else ():
                found = self._parts.corrections.get(form.level, {}).get(layer)
                if found and layer in recipe.layers and recipe.layers[layer].bias == found.bias:
                    corrections[layer] = found
        return replace(recipe, rescaled=rescaled, corrections=corrections)

    def _static_part(self, picked: Mapping[str, Form]) -> Recipe | None:
        if all(form.base != INT8 for form in picked.values()):
            return None
        others = [n for u in self.units.values() if picked[u.name].base != INT8 for n in u.layers]
        recipe = self._static_recipe([*others, *self._without_choice])
        tensors = dict(recipe.tensors)
        for unit in self.units.values():
            form = picked[unit.name]
            if form.base == INT8 and form.level is not None:
                mine = {n: recipe.layers[n] for n in unit.layers if n in recipe.layers}
                tensors |= self._parts.entries(mine, form.level, recipe.tensors)
        narrow = set(self.recovery.narrow)
        tensors = {n: halved(t) if n in narrow else t for n, t in tensors.items()}
        return replace(recipe, tensors=tensors)

    def _static_recipe(self, others: list[str] | tuple[str, ...]) -> Recipe:
        """Return static int8 in the graph's names, with *others* float."""
        job = self.job
        keep = (*job.options.keep, *self.recovery.keep, *others)
        with self._lock:
            wanted = observed_values(self.graph, choose_layers(self.graph, keep).layers)
            missing = [name for name in wanted if name not in self.ranges]
            if missing:
                self._observe(missing)
        return static_recipe(
            self.graph, job.base.digest, job.opset, self.calibration, job.scratch,
            estimator=job.options.estimator, keep=keep, ranges=self.ranges,
        )[0]  # fmt: skip

    def _add(self, unit: Unit, form: Form, made: _Made) -> None:
        """Add what a unit needs beside the static part."""
        if form.level is not None:
            pruning = self._parts.prunings[form.level]
            made.pruned[unit.weight] = entry = pruning.entries[unit.weight]
            made.arrays[entry.mask] = pruning.arrays[entry.mask]
        if form.base == PALETTE:
            palettes = self._parts.palettes[form.bits, form.level]
            table = palettes.entries[unit.weight]
            made.palettes[unit.weight] = table
            made.arrays |= {name: palettes.arrays[name] for name in table.stored}
        elif form.base in BLOCK_BITS:
            self._add_weight(unit, form, made)

    def _add_weight(self, unit: Unit, form: Form, made: _Made) -> None:
        mine = {
            name: Layer(self.graph.nodes[name].op_type, name, (), unit.weight, mode="weight")
            for name in unit.layers
        }
        made.layers |= mine
        if unit.name not in self.products:
            made.tensors |= self._parts.entries(mine, form.level, {})
            return
        rounded = self._parts.rounded[BLOCK_BITS[form.base], form.level]
        entry = rounded.entries[unit.weight]
        made.blocks[unit.weight] = entry
        made.arrays |= {name: rounded.arrays[name] for name in entry.stored}


@dataclass
class _Made:
    """A recipe as it is put together, and what its sidecar holds."""

    layers: dict[str, Layer] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, BlockWeight] = field(default_factory=dict)
    pruned: dict[str, PrunedWeight] = field(default_factory=dict)
    palettes: dict[str, PalettizedWeight] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)


def _scheme(used: set[Form]) -> str:
    bases = {form.base for form in used}
    if bases == {INT8}:
        return "int8-static"
    if bases == {PALETTE}:
        return "palette"
    if bases == {FLOAT}:
        return "sparse"
    if INT8 in bases or not bases <= {WEIGHT8, WEIGHT4}:
        return "mixed"
    return "int4-weight-only" if WEIGHT4 in bases else "int8-weight-only"


__all__ = ["FLOAT", "INT8", "WEIGHT4", "WEIGHT8", "WHOLE", "Assignment", "Space", "Unit"]
