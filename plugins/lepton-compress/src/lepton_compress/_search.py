"""The precision ``mixed``: one for each weight, chosen by sensitivity, verified on held-out rows.

Samples are divided into three parts that share no row: ranges and GPTQ see the first, sensitivities
and the search the second, and what is chosen is verified on the third.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._job import RECIPE, Job, lower
from lepton_compress._search_find import Finder
from lepton_compress._search_measure import Meter, Point, cache_for
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

STEPS = 8
"""Choices verified at most."""

_SMALLEST = 12
"""Rows below which they cannot be divided into three parts."""


@dataclass
class Search:
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
    space: Space
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

    def verify(self, best: Point) -> Checked | None:
        """Verify choices from safe to small, ending with *best*; return the last that holds.

        Where a size alone was asked for, the choice may lose more than the judge's budget, and is
        taken all the same: the result says so.
        """

        def measured(point: Point) -> Checked:
            return check(
                self.held_out.of(point.chosen), self.budget, share=self.share,
                limits=self.finder.limits, required=self.finder.budget is not None,
            )  # fmt: skip

        sequence = [best] if self.finder.budget is None else self._sequence(best)
        kept, self.checked = in_sequence(sequence, measured)
        return kept

    def _sequence(self, best: Point) -> list[Point]:
        """Return at most :data:`STEPS` choices of falling size that search rows accept."""
        fitting = [p for p in self.finder.pareto() if self.finder.accepts(p)]
        fitting = [p for p in fitting if best.size < p.size < self.plain.size]
        if len(fitting) > STEPS - 1:
            at = np.linspace(0, len(fitting) - 1, STEPS - 1).astype(int)
            fitting = [fitting[i] for i in dict.fromkeys(at.tolist())]
        return [*fitting, best]

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
    """Choose a precision for each weight within a budget, a size, or both.

    Raises:
        OptimizeError: ``LPT-OPT-030`` nothing within the budget is borne out, ``LPT-OPT-031`` the
            size cannot be met, ``LPT-OPT-032`` too few samples; with the closest choice and what
            limits it.
    """
    made = _prepare(job, samples)
    best = made.finder.run()
    if best is None:
        raise _unmet(made)
    kept = made.verify(best)
    if kept is None:
        raise _not_borne_out(made)
    return _result(made, kept)


def _prepare(job: Job, samples: Samples) -> Search:
    if len(samples) < _SMALLEST:
        raise OptimizeError(
            "LPT-OPT-032",
            f"A search needs at least {_SMALLEST} samples",
            cause=f"{len(samples)} were given; they are divided into rows to calibrate, to search "
            "and to verify on",
            remedy="Give more real inputs with --data, or ask for int8 or int4, which search "
            "nothing.",
        )
    calibration, rest = split(samples, seed=job.context.seed)
    searched, held_out = split(rest, seed=job.context.seed + 1)
    calibration, searched = calibration or rest, searched or rest
    space = Space(job, calibration)
    space.prepare()
    cache = cache_for(job, [calibration])
    total = len(samples)
    meter = Meter(job, space, searched, cache, slices_of(searched, job.options.slices, total))
    last = Meter(
        job, space, held_out, cache, slices_of(held_out, job.options.slices, total),
        numbers=meter.numbers,
    )  # fmt: skip
    few = meter.on_rows(job.options.rows or ROWS)
    plain, _, table = measure_all(space, few, back=False)
    limits, metric = Limits(), meter.metric.metric
    budget = budget_of(metric.name, limits.compressed, job.request.max_drop, share=metric.share)
    finder = Finder(
        meter, costs_of(space, plain, table), _objective(job, budget),
        _bytes(job.request.max_size, plain.size), plain.size, limits,
    )  # fmt: skip
    if job.options.trials:
        finder.trials = job.options.trials
        finder.exhaustive = min(finder.exhaustive, job.options.trials)
    if few is meter:
        finder.add([plain, *(one.only for one in table)])
    return Search(job, space, meter, few, last, cache, plain, table, finder, budget, [])


def _objective(job: Job, budget: float | None) -> float | None:
    """Return the loss within which the smallest is looked for; ``None`` where a size leads."""
    if job.request.max_drop is None and job.request.max_size is not None:
        return None
    return float("inf") if budget is None else budget


def _bytes(wanted: float | None, plain: int) -> float | None:
    """Return a size in bytes; numbers up to 1 are shares of the float model's."""
    if wanted is None:
        return None
    return wanted * plain if wanted <= 1 else wanted


# --- results -----------------------------------------------------------------------------------


def _result(made: Search, kept: Checked) -> OptimizeResult:
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
        "verdict": "pass" if kept.proved else "fail" if kept.exceeds(made.budget) else "unproved",
        "recipe": {"digest": recipes.read(place).digest, "scheme": recipe.scheme},
        **_facts(made, kept),
    }
    lowered = lower(job, place)
    return OptimizeResult(lowered, str(place), _why(made, kept), facts, tuple(made.space.refused))


def _why(made: Search, kept: Checked) -> str:
    point, budget = kept.point, made.budget
    text = f"{point.mix}: {made.plain.size / point.size:.2f}x smaller than fp32"
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


def _facts(made: Search, kept: Checked | None) -> dict[str, Any]:
    finder = made.finder
    chosen = None if kept is None else kept.point
    limited = "" if chosen is None else made.limiting(chosen)
    meters = (made.meter, made.few, made.held_out)
    return {
        "search": {
            "budget": made.budget,
            "max_size": finder.max_size,
            "metric": made.meter.metric.metric.name,
            "chosen": None if chosen is None else chosen.to_dict(),
            "proved": kept is not None and kept.proved,
            "bound": None if kept is None else _finite(kept.bound),
            "limited_by": limited,
            "pareto": [p.to_dict() for p in finder.pareto()],
            "verified": [
                {"size": c.point.size, "drop": _finite(c.point.drop), "bound": _finite(c.bound),
                 "holds": c.holds, "why": c.why}
                for c in made.checked
            ],
            "measured": sum({id(m): m.measured for m in meters}.values()),
            "from_cache": made.cache.hits,
            "rows": {
                "calibration": len(made.space.calibration),
                "search": len(made.meter.samples),
                "held_out": len(made.held_out.samples),
            },
        },
        "sensitivity": facts_of(made.space, made.meter, made.plain, {}, made.table),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


# --- refusals ----------------------------------------------------------------------------------


def _unmet(made: Search) -> OptimizeError:
    """Say what stood in the way on search rows: the size, or the budget."""
    finder = made.finder
    compressed = [p for p in finder.points.values() if any(v != FLOAT for v in p.chosen.values())]
    if not any(p.size < made.plain.size for p in compressed):
        return _no_gain(made)
    if finder.max_size is not None:
        unlimited = replace(finder, max_size=None)
        within = [p for p in compressed if unlimited.accepts(p)]
        smallest = min(within or compressed, key=lambda p: p.size)
        how = "within the budget " if within and finder.budget is not None else ""
        limit = made.limiting(smallest) if within and finder.budget is not None else ""
        fixed = smallest.size - sum(_stored(made, smallest))
        return OptimizeError(
            "LPT-OPT-031",
            f"No choice of precisions is as small as {finder.max_size:.0f} bytes",
            cause=f"the smallest {how}has {smallest.size} bytes; about {fixed:.0f} of them are no "
            "weights that can be compressed" + (f"; {limit!r} costs most" if limit else ""),
            remedy="Allow a larger --max-size or a larger --max-drop, or prune the model.",
            details={"closest": smallest.to_dict(), "limited_by": limit or None,
                     "max_size": finder.max_size},
        )  # fmt: skip
    return _over_budget(made, compressed, "")


def _stored(made: Search, point: Point) -> Sequence[float]:
    bits = {FLOAT: 32, "int8": 8, "int8-weight": 9, "int4": 5}
    return [u.values * bits[point.chosen[u.name]] / 8 for u in made.space.units.values()]


def _not_borne_out(made: Search) -> OptimizeError:
    failed = made.checked[-1]
    return _over_budget(made, [failed.point], f"; held-out rows do not bear it out: {failed.why}")


def _over_budget(made: Search, among: list[Point], why: str) -> OptimizeError:
    closest = min(among, key=lambda p: (max(p.drop, 0.0), p.error, p.size))
    limit = made.limiting(closest)
    return OptimizeError(
        "LPT-OPT-030",
        f"No choice of precisions meets the budget of {made.budget}",
        cause=f"the closest loses {closest.drop:.3g} on {closest.rows} rows with a relative error "
        f"of {closest.error:.3g} and {closest.size} bytes{why}"
        + (f"; {limit!r} costs most" if limit else ""),
        remedy="Loosen --max-drop, give more samples, or ask for fp16.",
        details={"closest": closest.to_dict(), "limited_by": limit or None,
                 "max_drop": made.budget, "pareto": _facts(made, None)["search"]["pareto"]},
    )  # fmt: skip


def _no_gain(made: Search) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-034",
        "No choice of precisions makes the model smaller",
        cause=f"the float model has {made.plain.size} bytes, and scales and operators of their own "
        "take what integers save",
        remedy="Keep the float model; compression pays from some ten thousand weights on.",
    )


__all__ = ["Search", "search"]
