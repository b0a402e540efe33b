"""Weights in few bits under a budget: layers get 8 bits, worst first, until it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._bench import Bench, Trial
from lepton_compress._job import RECIPE, Job, lower
from lepton_compress._no_gain import no_gain
from lepton_compress._products import choose_products
from lepton_compress._weights import Compressed, build, facts_of, raised
from lepton_core.errors import OptimizeError
from lepton_core.samples import split
from lepton_core.types import OptimizeResult
from lepton_onnx import qdq

if TYPE_CHECKING:
    from lepton_core.samples import Samples

MORE_BITS = 8


def choose_weights(job: Job, samples: Samples) -> OptimizeResult:
    """Return the recipe of fewest raised layers that is within the budget on rows not used before.

    The first candidate has the bits asked for everywhere. Then the weights that cost most at their
    own outputs get 8 bits: one, two, four, … and all of them at last.

    Raises:
        OptimizeError: ``LPT-OPT-014`` none is within the budget and smaller or faster.
    """
    calibration, validation = split(samples, seed=job.context.seed)
    if calibration is None:
        calibration = validation
    bench = Bench.prepare(job, validation)
    trials = [bench.measure_float()]
    chosen = choose_products(job.graph, job.options)
    made = build(job, calibration, chosen)
    low = {p.weight for p in chosen.products if p.bits < MORE_BITS}
    costs = {name: _cost(job, made, name) for name in low}
    order = sorted(low, key=lambda name: (-costs[name], name))
    count = 0
    while True:
        trial = _measure(bench, made, count)
        trials.append(trial)
        if trial.passes and trial.gains:
            return _result(job, made, trial, trials, (len(calibration), bench.rows))
        if count >= len(order):
            raise _budget_error(job, trials, order)
        count = min(len(order), max(1, 2 * count))
        made = build(job, calibration, raised(chosen, set(order[:count]), MORE_BITS))


def _cost(job: Job, made: Compressed, name: str) -> float:
    """Return the relative error of a product's outputs; of its weight where no inputs were seen."""
    if name in made.errors:
        return made.errors[name]
    entry, values = made.recipe.blocks[name], job.graph.array(name)
    before = qdq.by_output(values, entry.axis)
    lost = qdq.block_integers(name, values, entry, made.arrays).values() - before
    size = float(np.linalg.norm(before))
    return float(np.linalg.norm(lost)) / size if size else 0.0


def _measure(bench: Bench, made: Compressed, count: int) -> Trial:
    name = f"{bench.job.request.precision} ({made.method}"
    name += f", {count} weights of {MORE_BITS} bits)" if count else ")"
    return bench.measure(name, made.recipe, made.method, (), made.arrays)


def _result(
    job: Job, made: Compressed, trial: Trial, trials: list[Trial], rows: tuple[int, int]
) -> OptimizeResult:
    facts: dict[str, Any] = facts_of(job, made, trial.verdict)
    facts.pop("why")
    facts |= {
        "trials": [one.summary() for one in trials],
        "calibrated_on": rows[0],
        "measured_on": rows[1],
        **trial.facts,
    }
    place = job.write(made.recipe, job.context.workdir / RECIPE, made.arrays)
    why = f"{trial.name}: {trial.gains}; {trial.why}"
    return OptimizeResult(lower(job, place), str(place), why, facts)


def _budget_error(job: Job, trials: list[Trial], order: list[str]) -> OptimizeError:
    best = min(trials[1:], key=lambda t: (not t.passes, t.drop, t.error))
    if best.passes:
        details = {"closest": best.summary(), "limited_by": None,
                   "max_drop": job.request.max_drop}  # fmt: skip
        return no_gain(job.request.precision, best, trials[0], details)
    limit = f"; the weight that costs most is {order[0]!r}" if order else ""
    return OptimizeError(
        "LPT-OPT-014",
        f"No {job.request.precision} variant meets the budget of {job.request.max_drop}",
        cause=f"the closest is {best.name}: {best.why}{limit}",
        remedy="Loosen --max-drop, give more samples, or ask for int8 or fp16.",
        details={
            "closest": best.summary(),
            "limited_by": order[0] if order else None,
            "max_drop": job.request.max_drop,
        },
    )


__all__ = ["choose_weights"]
