"""The precision ``mixed``: one for each weight, chosen by sensitivity, verified on held-out rows.

Samples are divided into three parts that share no row: ranges and GPTQ see the first, sensitivities
and the search the second, and what is chosen is verified on the third.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from lepton_compress._job import RECIPE, Job, lower
from lepton_compress._search_find import Finder
from lepton_compress._search_measure import Choices, Meter, Point, cache_for
from lepton_compress._search_recover import Recovered, recover_before_search
from lepton_compress._search_refusals import facts_of_search, not_borne_out, unmet
from lepton_compress._search_space import FLOAT, Space
from lepton_compress._search_verify import Checked, check, in_sequence
from lepton_compress._sensitivity import (
    ROWS,
    Sensitivity,
    costs_of,
    facts_of,
    measure_all,
    slices_of,
)
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.samples import split
from lepton_core.types import OptimizeResult
from lepton_core.verdicts import Limits, budget_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_compress._search_cache import Cache
    from lepton_core.samples import Samples

S = TypeVar("S", bound=Choices)

STEPS = 8
"""Choices verified at most."""

_SMALLEST = 12
"""Rows below which they cannot be divided into three parts."""


@dataclass
class Search(Generic[S]):
    """One search with what it found.

    Attributes:
        job: The request.
        space: What can be chosen.
        meter: Measures on search rows.
        few: Measures on those of them that sensitivities were measured on.
        held_out: Measures on the rows for verification.
        cache: What both keep.
        plain: The float model.
        table: Sensitivities.
        finder: The search on search rows.
        budget: Loss that held-out rows are judged by, as the passport judges; ``None`` where the
            metric has none.
        checked: What was verified.
    """

    job: Job
    space: S
    meter: Meter
    few: Meter
    held_out: Meter
    cache: Cache
    plain: Point
    table: list[Sensitivity]
    finder: Finder
    budget: float | None
    checked: list[Checked]

    @property
    def share(self) -> bool:
        """Whether the metric is a share of rows."""
        return self.meter.metric.metric.share

    def verify(
        self, best: Point, others: Sequence[Search[S]] = ()
    ) -> tuple[Search[S], Checked | None]:
        """Verify choices from safe to small, ending with *best*.

        Where a size alone was asked for, the choice may lose more than the judge's budget, and is
        taken all the same: the result says so.

        Args:
            best: The best choice on search rows.
            others: Searches of the same model by other means, whose choices lie between.

        Returns:
            The last choice that holds before the first that does not, and whose it is; this search
            and ``None`` if the first does not hold.
        """
        ordered = [(self, best)] if self.finder.budget is None else self._sequence(best, others)
        owners = {id(point): one for one, point in ordered}

        def measured(point: Point) -> Checked:
            return check(
                owners[id(point)].held_out.of(point.chosen), self.budget, share=self.share,
                limits=self.finder.limits, required=self.finder.budget is not None,
            )  # fmt: skip

        kept, checked = in_sequence([point for _, point in ordered], measured)
        holding = [one for one, found in zip(ordered, checked, strict=False) if found.holds]
        owner = holding[-1][0] if kept is not None else self
        owner.checked = checked
        return owner, kept

    def _sequence(self, best: Point, others: Sequence[Search[S]]) -> list[tuple[Search[S], Point]]:
        """Return at most :data:`STEPS` choices of falling size that search rows accept.

        The best choice of every search is among them.
        """
        found = [
            (one, point)
            for one in (self, *others)
            for point in one.finder.pareto()
            if one.finder.accepts(point) and best.size < point.size < self.plain.size
        ]
        found.sort(key=lambda item: (item[1].size, item[1].error))
        front: list[tuple[Search[S], Point]] = []
        for one, point in found:
            if not front or point.error < front[-1][1].error:
                front.append((one, point))
        front.reverse()
        if len(front) > STEPS - 1:
            at = np.linspace(0, len(front) - 1, STEPS - 1 - len(others)).astype(int)
            bests = [i for i, (one, point) in enumerate(front) if point is one.finder.best()]
            front = [front[i] for i in sorted({*at.tolist(), *bests})]
        return [*front, (self, best)]

    def verdict(self, kept: Checked) -> str:
        """Return ``"pass"``, ``"fail"`` or ``"unproved"``."""
        return "pass" if kept.proved else "fail" if kept.exceeds(self.budget) else "unproved"

    def limiting(self, point: Point) -> str:
        """Return the unit that costs most at the precision that it has, or could have least."""
        by_unit: dict[str, float] = {}
        for one in self.table:
            has = point.chosen.get(one.unit, FLOAT)
            if has == one.precision:
                by_unit[one.unit] = one.only.error
            elif has == FLOAT:
                by_unit[one.unit] = min(by_unit.get(one.unit, float("inf")), one.only.error)
        return max(by_unit, key=lambda name: by_unit[name], default="")


def search(job: Job, samples: Samples) -> OptimizeResult:
    """Choose a form for each weight within a budget, a size, or both.

    Raises:
        OptimizeError: ``LPT-OPT-030`` nothing within the budget is borne out, ``LPT-OPT-031`` the
            size cannot be met, ``LPT-OPT-032`` too few samples; with the closest choice and what
            limits it.
    """
    tried, recovered = prepared(job, samples)
    made, found = _smallest(tried)
    if found is None:
        raise unmet(made)
    made, kept = made.verify(found, [one for one in tried if one is not made])
    if kept is None:
        raise not_borne_out(made)
    return _result(made, kept, recovered, tried)


def prepared(job: Job, samples: Samples) -> tuple[list[Search[Space]], Recovered]:
    """Return searches that are ready to run, without and with what was recovered.

    Raises:
        OptimizeError: ``LPT-OPT-032`` too few samples.
    """
    rows = divided(job, samples)
    cache = cache_for(job, [rows.calibration])
    space, recovered = Space(job, rows.calibration), Recovered()
    if space.computes_integers:
        recovered = recover_before_search(job, rows.calibration, rows.searched, cache)
    spaces = [] if recovered.instead else [space]
    if not recovered.recovery.empty:
        spaces.append(Space(job, rows.calibration, recovered.recovery))
    tried: list[Search[Space]] = []
    for one in spaces:
        tried.append(_prepare(job, one, rows, cache, like=tried[0] if tried else None))
    return tried, recovered


def _smallest(tried: Sequence[Search[Space]]) -> tuple[Search[Space], Point | None]:
    """Run searches, and return the one with the best choice; the last if none has any."""
    found = [(one, one.finder.run()) for one in tried]
    fitting = [(one, point) for one, point in found if point is not None]
    if not fitting:
        return found[-1]
    return min(fitting, key=lambda item: item[0].finder.rank(item[1]))


@dataclass(frozen=True)
class Rows:
    """Samples in three parts that share no row.

    Attributes:
        calibration: Ranges and GPTQ see these.
        searched: Sensitivities and the search are measured on these.
        held_out: What is chosen is verified on these.
        total: Rows of the user's file.
    """

    calibration: Samples
    searched: Samples
    held_out: Samples
    total: int


def divided(job: Job, samples: Samples) -> Rows:
    """Divide samples into rows to calibrate, to search and to verify on.

    Raises:
        OptimizeError: ``LPT-OPT-032`` they are too few.
    """
    parts = None if len(samples) < _SMALLEST else _parts(samples, job.context.seed)
    if parts is None:
        same = f" ({samples.distinct} of different content)" if len(samples) >= _SMALLEST else ""
        raise OptimizeError(
            "LPT-OPT-032",
            f"A search needs at least {_SMALLEST} samples",
            cause=f"{len(samples)} were given{same}; they are divided into rows to calibrate, to "
            "search and to verify on, and equal rows stay together",
            remedy="Give more real inputs with --data, or ask for int8 or int4, which search "
            "nothing.",
        )
    return Rows(*parts, len(samples))


def _parts(samples: Samples, seed: int) -> tuple[Samples, Samples, Samples] | None:
    """Return rows to calibrate, to search and to verify on; ``None`` if too many are equal."""
    calibration, rest = split(samples, seed=seed)
    searched, held_out = split(rest, seed=seed + 1)
    return None if calibration is None or searched is None else (calibration, searched, held_out)


def _prepare(
    job: Job, space: Space, rows: Rows, cache: Cache, *, like: Search[Space] | None = None
) -> Search[Space]:
    """Measure sensitivities; *like* is a search of the same model on the same rows."""
    space.prepare()
    if like is None:
        searched, held_out = rows.searched, rows.held_out
        slices = [slices_of(part, job.options.slices, rows.total) for part in (searched, held_out)]
        meter = Meter(job, space, searched, cache, slices[0])
        last = Meter(job, space, held_out, cache, slices[1], numbers=meter.numbers)
    else:
        meter, last = (replace(one, space=space, measured=0) for one in (like.meter, like.held_out))
    few = meter.on_rows(job.options.rows or ROWS)
    plain, _, table = measure_all(space, few, back=False)
    limits, metric = Limits(), meter.metric.metric
    budget = budget_of(metric.name, limits.compressed, job.request.max_drop, share=metric.share)
    finder = Finder(
        meter, costs_of(space, plain, table), objective(job, budget),
        in_bytes(job.request.max_size, plain.size), plain.size, limits,
    )  # fmt: skip
    if job.options.trials:
        finder.trials = job.options.trials
        finder.exhaustive = min(finder.exhaustive, job.options.trials)
    if few is meter:
        finder.add([plain, *(one.only for one in table)])
    return Search(job, space, meter, few, last, cache, plain, table, finder, budget, [])


def objective(job: Job, budget: float | None) -> float | None:
    """Return the loss within which the smallest is looked for; ``None`` where a size leads."""
    if job.request.max_drop is None and job.request.max_size is not None:
        return None
    return float("inf") if budget is None else budget


def in_bytes(wanted: float | None, plain: int) -> float | None:
    """Return a size in bytes; numbers up to 1 are shares of the float model's."""
    if wanted is None:
        return None
    return wanted * plain if wanted <= 1 else wanted


# --- results -----------------------------------------------------------------------------------


def _result(
    made: Search[Space], kept: Checked, recovered: Recovered, tried: Sequence[Search[Space]]
) -> OptimizeResult:
    job, point = made.job, kept.point
    reasons = {
        one.unit: f"sensitive: alone at {one.precision} it makes a relative error of "
        f"{one.only.error:.3g}"
        for one in sorted(made.table, key=lambda one: -one.only.error)
    }
    recipe, arrays = made.space.recipe(point.chosen, reasons)
    assert recipe is not None  # noqa: S101 - it is smaller than float
    place = job.write(recipe, job.context.workdir / RECIPE, arrays)
    facts = {
        "verdict": made.verdict(kept),
        "recipe": {"digest": recipes.read(place).digest, "scheme": recipe.scheme},
        **facts_of_search(made, kept),
        "sensitivity": facts_of(made.space, made.meter, made.plain, {}, made.table),
        **recovered.facts,
    }
    if len(tried) > 1:
        facts["recovery"] = {**facts["recovery"], **_compared(made, tried)}
    lowered = lower(job, place)
    why = why_of(made, kept, kept.point.mix)
    warnings = (*made.space.refused, *made.meter.warnings)
    return OptimizeResult(lowered, str(place), why, facts, warnings)


def _compared(made: Search[Space], tried: Sequence[Search[Space]]) -> dict[str, Any]:
    """Return the best choice with and without what was recovered, on search rows."""
    found: dict[str, Any] = {"taken": not made.space.recovery.empty}
    for one in tried:
        best = one.finder.best()
        name = "without" if one.space.recovery.empty else "with"
        found[name] = best and {"size": best.size, "drop": best.drop, "error": best.error}
    said = ", ".join(
        f"{name} {found[name]['size']} bytes" if found[name] else f"{name} none that fits"
        for name in ("without", "with")
    )
    return {**found, "compared": f"smallest on search rows: {said}"}


def why_of(made: Search[S], kept: Checked, what: str) -> str:
    """Say for people what was chosen, what it saves, what it loses, and whether that is proved."""
    point, budget = kept.point, made.budget
    text = f"{what}: {made.plain.size / point.size:.2f}x smaller than fp32"
    name = made.meter.metric.metric.name
    text += f"; {name} loses {point.drop:.3g} on {point.rows} held-out rows"
    if budget is not None:
        text += f", at most {kept.bound:.3g} at {100 * made.finder.limits.confidence:g} %"
        unproved = f"; over {budget:g}" if kept.exceeds(budget) else f"; not proved for {budget:g}"
        text += f", within {budget:g}" if kept.proved else unproved
    failed = [one for one in made.checked if not one.holds]
    if failed:
        text += f". Smaller was not borne out: {failed[0].point.size} bytes, {failed[0].why}"
    return text


__all__ = ["Rows", "Search", "divided", "in_bytes", "objective", "search", "why_of"]
