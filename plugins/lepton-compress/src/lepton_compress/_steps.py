"""What a run of the engine is made of, so that the time that it still takes can be told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_compress._job import divisible
from lepton_compress._options import BLOCK_PRECISIONS, MIXED
from lepton_compress._sparse_options import SPARSE_PRECISIONS
from lepton_core.remaining import Step
from lepton_core.samples import default_calibration

if TYPE_CHECKING:
    from lepton_compress._job import Job
    from lepton_compress._search_space import Space
    from lepton_core.samples import Samples

_OPENING = 0.5
"""Seconds that lowering and opening the float model take, as a guess until they are over."""

_SEARCHED = 60
"""Choices that a search measures in a large space, as a rule; it may be fewer, or more."""

_HALVED = 10
"""Sparsities that a search measures, as a rule."""

_VERIFIED = 4
"""Choices verified, as a rule."""

_EXHAUSTIVE = 256


def steps_of(job: Job, samples: Samples | None) -> list[Step]:
    """Return the steps of a run, in order, as far as they are known before it."""
    request, count = job.request, 0 if samples is None else len(samples)
    calibrated = default_calibration(count) if divisible(samples) else count
    held = count - calibrated
    timed = _timed(job)
    if request.precision == MIXED:
        return [Step("calibrate", calibrated), Step("round", 1, may_grow=True), *timed]
    budget = request.max_drop is not None or request.precision == "auto"
    if job.options.sparsities:
        return [Step("search", _HALVED, "choice", held // 3, may_grow=True), *timed]
    if request.precision in SPARSE_PRECISIONS:
        return [Step("run", 3 * held, "rows", may_grow=True)] if divisible(samples) else timed
    if request.precision in BLOCK_PRECISIONS:
        work = Step("round", 1, may_grow=True)
    else:
        work = Step("calibrate", calibrated if budget else count, "rows", cost=2.0)
    if budget and divisible(samples):
        # The source and the float model on the held-out rows, then one candidate or more.
        before = Step("run", 2 * held, "rows")
        return [before, work, Step("run", held, "rows", may_grow=True)]
    return [work, *timed] if count else timed


def steps_of_choices(space: Space, rows: int, jobs: int, *, searched: bool) -> list[Step]:
    """Return the steps from the sensitivities on.

    Args:
        space: What can be chosen.
        rows: Rows that sensitivities are measured on.
        jobs: Choices measured for them.
        searched: Whether a search follows.
    """
    steps = [Step("sensitivity", jobs, "choice", rows)]
    if not searched:
        return steps
    # A third of what is not calibrated on is searched on, the rest verifies.
    found = max(rows, 2 * len(space.calibration) // 3)
    whole = math.prod(len(unit.choices) for unit in space.units.values())
    if whole <= _EXHAUSTIVE:
        steps.append(Step("measure every choice", whole, "choice", found))
    else:
        trials = min(_SEARCHED, space.job.options.trials or _SEARCHED)
        steps.append(Step("search", trials, "choice", found, may_grow=True))
    return [*steps, Step("verify", _VERIFIED, "choice", 2 * found), *_timed(space.job)]


def _timed(job: Job) -> list[Step]:
    seconds = job.request.timing_seconds
    if seconds <= 0 or job.options.recipe_only:
        return []
    return [Step("time it", 1, seconds=seconds + _OPENING)]


__all__ = ["steps_of", "steps_of_choices"]
