"""The largest sparsity that a budget bears: one share for all weights, found and then verified.

Samples are divided as for a search over precisions: Wanda sees the first part, shares are tried on
the second, and what is chosen is verified on the third, from safe to sparse.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._build import in_order
from lepton_compress._job import RECIPE, Job, lower
from lepton_compress._powers import Powers, input_powers
from lepton_compress._prunable import find_sites
from lepton_compress._pruning import Pruning, prune_weights
from lepton_compress._recover_recipe import Recovery
from lepton_compress._search import Rows, Search, divided, in_bytes, objective, why_of
from lepton_compress._search_find import Finder
from lepton_compress._search_forms import FLOAT, Level
from lepton_compress._search_measure import Meter, cache_for
from lepton_compress._search_refusals import facts_of_search, not_borne_out, unmet
from lepton_compress._search_space import Unit
from lepton_core.progress import show_board
from lepton_core.recipe import Calibration, PivotId, Recipe
from lepton_core.types import OptimizeResult
from lepton_core.verdicts import Limits, budget_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lepton_compress._search_cache import Cache
    from lepton_compress._search_measure import Point
    from lepton_compress._search_space import Assignment
    from lepton_core.samples import Samples

WEIGHTS = "weights"
"""Name of the only unit: all weights together."""

SCOPES = ("layer", "global")
"""What is ranked together where nothing is said; both are tried."""


@dataclass
class Levels:
    """All shares that can be pruned, of one pivot.

    Attributes:
        job: The request.
        calibration: Rows that Wanda observes inputs on.
        recovery: Nothing; a search of precisions has it.
        units: One, of all weights, whose choices are called ``"layer 35"``.
        refused: Nothing is.
    """

    job: Job
    calibration: Samples
    recovery: Recovery = field(default_factory=Recovery)
    units: dict[str, Unit] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _powers: Powers | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        sites, _ = find_sites(self.job.graph, self.job.options.keep)
        values = sum(int(self.job.graph.array(name).size) for name in sites)
        names = tuple(name for scope in self.scopes for name in self.choices(scope))
        self.units = {WEIGHTS: Unit(WEIGHTS, "Prune", (), WEIGHTS, values, (FLOAT, *names))}

    @property
    def what(self) -> str:
        """What is chosen, for people."""
        return "sparsity"

    @property
    def scopes(self) -> tuple[str, ...]:
        """What is ranked together; a row for Wanda, whose scores compare there alone."""
        options = self.job.options
        if options.scope:
            return (options.scope,)
        return ("row",) if options.prune == "wanda" else SCOPES

    def choices(self, scope: str) -> list[str]:
        """Return the names of the shares of one scope, the smallest first."""
        return [f"{scope} {Level(share)}" for share in self.job.options.sparsities]

    def pruning(self, name: str) -> Pruning:
        """Prune as a choice says."""
        job = self.job
        scope, share = name.split()
        options = replace(job.options, sparsity=float(share) / 100, scope=scope)
        powers = None
        if options.prune == "wanda":
            with self._lock:
                if self._powers is None:
                    sites, _ = find_sites(job.graph, options.keep)
                    rows = self.calibration
                    self._powers = input_powers(job.graph, sites, rows, job.scratch, options)
            powers = self._powers
        return prune_weights(job.graph, options, self.calibration, job.scratch, powers=powers)

    def recipe(
        self, chosen: Assignment, reasons: Mapping[str, str] | None = None
    ) -> tuple[Recipe | None, dict[str, NDArray[np.generic]]]:
        """Return the recipe of a choice and what its sidecar holds; ``None`` if all is whole."""
        del reasons
        name = chosen.get(WEIGHTS, FLOAT)
        if name == FLOAT:
            return None, {}
        made, job, seen = self.pruning(name), self.job, self.calibration
        observed = job.options.prune == "wanda"
        recipe = Recipe(
            PivotId(job.base.digest, job.opset),
            "sparse",
            {},
            {},
            calibration=Calibration(len(seen), seen.digest, "wanda", seen.origin)
            if observed else None,
            written_by=f"lepton-compress {__version__}",
            pruned=in_order(job.graph, dict(made.entries)),
        )  # fmt: skip
        return recipe, dict(made.arrays)

    def stored(self, chosen: Assignment) -> float:
        """Return the bytes that the weights take, about: what stays, and a bit for each value."""
        name, values = chosen.get(WEIGHTS, FLOAT), self.units[WEIGHTS].values
        if name == FLOAT:
            return 4.0 * values
        return values * (4.0 * (1 - float(name.split()[1]) / 100) + 0.125)


def search_sparsity(job: Job, samples: Samples) -> OptimizeResult:
    """Prune as much as a budget bears, or no more than a size needs.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to prune, ``LPT-OPT-030`` nothing within
            the budget is borne out, ``LPT-OPT-031`` the size cannot be met, ``LPT-OPT-032`` too
            few samples, ``LPT-OPT-034`` no share makes the file smaller.
    """
    rows = divided(job, samples)
    made = _prepare(job, Levels(job, rows.calibration), rows, cache_for(job, [rows.calibration]))
    for scope in made.space.scopes:
        _halve(made.finder, made.space.choices(scope))
    show_board(made.meter.reporter, "", (), ())
    best = made.finder.best()
    if best is None:
        raise unmet(made)
    made, kept = made.verify(best)
    if kept is None:
        raise not_borne_out(made)
    recipe, arrays = made.space.recipe(kept.point.chosen)
    assert recipe is not None  # noqa: S101 - it is smaller than float
    name = kept.point.chosen[WEIGHTS]
    pruning = made.space.pruning(name)
    place = job.write(recipe, job.context.workdir / RECIPE, arrays)
    facts: dict[str, Any] = {
        "verdict": made.verdict(kept),
        "engine": f"lepton-compress {__version__}",
        "pruning": pruning.facts,
        **facts_of_search(made, kept),
    }
    share = 100 * pruning.facts["sparsity"]
    how = f"{share:.3g} % pruned by {job.options.prune} ({name.split()[0]})"
    lowered = lower(job, place)
    warnings = (*pruning.warnings, *made.meter.warnings)
    return OptimizeResult(lowered, str(place), why_of(made, kept, how), facts, warnings)


def _prepare(job: Job, space: Levels, rows: Rows, cache: Cache) -> Search[Levels]:
    meter = Meter(job, space, rows.searched, cache)
    last = Meter(job, space, rows.held_out, cache, numbers=meter.numbers)
    plain = meter.of({})
    limits, metric = Limits(), meter.metric.metric
    budget = budget_of(metric.name, limits.compressed, job.request.max_drop, share=metric.share)
    size = in_bytes(job.request.max_size, plain.size)
    finder = Finder(meter, {}, objective(job, budget), size, plain.size, limits)
    finder.add([plain])
    return Search(job, space, meter, meter, last, cache, plain, [], finder, budget, [])


def _halve(finder: Finder, names: list[str]) -> None:
    """Look for the last share that is borne, or the first that is small enough, by halving.

    Losses need not rise with the share, so the neighbours of the place found are tried, too.
    """

    def goes_on(point: Point) -> bool:
        if finder.budget is None:
            return finder.max_size is not None and point.size > finder.max_size
        return finder.bears(point)

    low, high = -1, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        (point,) = finder.measure([{WEIGHTS: names[middle]}], "search: sparsity")
        low, high = (middle, high) if goes_on(point) else (low, middle)
    near = names[max(0, low - 1) : high + 2]
    finder.measure([{WEIGHTS: name} for name in near], "search: around the share found")


__all__ = ["Levels", "search_sparsity"]
