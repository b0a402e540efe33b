"""Weights that stay float and become smaller: pruned, or places in tables of few values.

A file gets smaller by them, and by nothing else: the runtimes put weights together as they load a
model, and compute with them as with any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._bench import Bench, Trial
from lepton_compress._build import in_order
from lepton_compress._job import (
    RECIPE,
    UNSAMPLED,
    Job,
    divisible,
    lower,
    rows_to_calibrate,
    size_of,
    unchecked_budget,
)
from lepton_compress._no_gain import no_gain
from lepton_compress._palettes import Palettes, palettize_weights
from lepton_compress._powers import input_powers
from lepton_compress._prunable import find_sites
from lepton_compress._sparse_options import AUTO, PALETTE
from lepton_core.errors import OptimizeError, OptimizeRequestError
from lepton_core.recipe import Calibration, PivotId, Recipe
from lepton_core.samples import split
from lepton_core.types import OptimizeResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.samples import Samples

NO_GAIN = "It is neither smaller nor faster here than the float model"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to do what was asked for.

    Attributes:
        name: What it is, for people.
        recipe: Its recipe, without what was pruned.
        palettes: Its palettes, if it has any.
    """

    name: str
    recipe: Recipe
    palettes: Palettes | None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the recipe's sidecar holds."""
        return dict(self.palettes.arrays) if self.palettes else {}


def compress_sparse(job: Job, samples: Samples | None) -> OptimizeResult:
    """Build, measure and lower what was pruned, or palettes.

    With samples that can be divided, the result is measured on rows that nothing was found on,
    against the model as it was; a budget must be kept there, and something gained. Palettes are
    tried with and without errors weighed by inputs; the one of less error is taken.

    Where nothing says how much is pruned, the largest share that the budget bears is searched
    (:mod:`lepton_compress._sparse_search`).

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to palettize, ``LPT-OPT-014`` the budget
            is not met, or met by what is neither smaller nor faster, ``LPT-OPT-015`` nothing says
            how much is pruned, and there is no budget or no sample to find out by.
    """
    if job.options.sparsities:
        from lepton_compress._sparse_search import search_sparsity

        return search_sparsity(job, _to_search_by(job, samples))
    seen = rows_to_calibrate(job, samples)
    variants = [_variant(job, seen, weigh=False)]
    facts: dict[str, Any] = {"engine": f"lepton-compress {__version__}"}
    if samples is not None and divisible(samples):
        if job.request.precision == PALETTE:
            variants.append(_variant(job, seen, weigh=True))
        bench = Bench.prepare(job, split(samples, seed=job.context.seed)[1])
        plain = bench.measure_float()
        tried = [bench.measure(v.name, v.recipe, "", (), v.arrays) for v in variants]
        trial = min(tried, key=lambda t: (not t.passes, t.error))
        made = variants[tried.index(trial)]
        facts |= {"verdict": trial.verdict, "measured_on": bench.rows,
                  "trials": [t.summary() for t in (plain, *tried)], **trial.facts}  # fmt: skip
        if job.request.max_drop is not None and not (trial.passes and trial.gains):
            raise _unmet(job, trial, made, plain)
        why = f"{made.name}: {trial.gains or 'no gain'}; {trial.why}"
        warnings = () if trial.gains else (f"{NO_GAIN}.",)
        if not trial.passes:
            warnings = (f"It does not hold on {bench.rows} rows held out: {trial.why}.", *warnings)
    else:
        facts["verdict"] = "weak" if samples is None else "unmeasured"
        made = variants[0]
        why, warnings = made.name, _unmeasured(job, samples, made)
    if job.pruning is not None:
        facts["pruning"] = job.pruning.facts
    if made.palettes is not None:
        facts["palettes"] = made.palettes.facts
    place = job.write(made.recipe, job.context.workdir / RECIPE, made.arrays)
    return OptimizeResult(lower(job, place), str(place), why, facts, warnings)


def _to_search_by(job: Job, samples: Samples | None) -> Samples:
    """Return the samples that a share can be searched by.

    Raises:
        OptimizeError: ``LPT-OPT-015``.
    """
    request = job.request
    goal = request.max_drop is not None or request.max_size is not None
    goal |= request.options.get("sparsity") == AUTO
    if samples is not None and goal:
        return samples
    missing = "there are no samples" if goal else "there is no budget"
    raise OptimizeRequestError(
        "LPT-OPT-015",
        "Nothing says how much is pruned",
        cause=f"sparsity (a share) or pattern (N:M) does; it cannot be searched for: {missing}",
        remedy="Give --sparsity or --pattern, or --data with --max-drop or --max-size.",
    )


def _variant(job: Job, seen: Samples | None, *, weigh: bool) -> Variant:
    palettes = None
    if job.request.precision == PALETTE:
        powers = None
        if weigh and seen is not None:
            sites, _ = find_sites(job.graph, job.options.keep, tables=True)
            powers = input_powers(job.graph, sites, seen, job.scratch, job.options)
        pruned = frozenset(job.pruning.entries if job.pruning else ())
        palettes = palettize_weights(job.graph, job.options, pruned, powers)
    wanda = job.pruning is not None and job.options.prune == "wanda"
    calibration = None
    if seen is not None and (weigh or wanda):
        calibration = Calibration(
            len(seen), seen.digest, "power" if weigh else "wanda", seen.origin
        )
    entries = in_order(job.graph, dict(palettes.entries)) if palettes else {}
    recipe = Recipe(
        PivotId(job.base.digest, job.opset),
        job.request.precision,
        {},
        {},
        calibration=calibration,
        written_by=f"lepton-compress {__version__}",
        palettes=entries,
    )
    return Variant(_name(job, palettes), recipe, palettes)


def _name(job: Job, palettes: Palettes | None) -> str:
    parts = []
    if palettes is not None:
        group = f" for every {job.options.group} channels" if job.options.group else ""
        weighed = " weighed by inputs" if palettes.weighed else ""
        parts.append(f"palettes of {job.options.palette} bits{group}{weighed}")
    if job.pruning is not None:
        found = job.pruning.facts
        how = found["pattern"] or f"{100 * found['sparsity']:.3g} %"
        parts.append(f"{how} pruned by {found['method']} ({found['scope']})")
    return ", ".join(parts)


def _unmeasured(job: Job, samples: Samples | None, made: Variant) -> tuple[str, ...]:
    warnings = [] if samples is not None else [UNSAMPLED]
    warnings += unchecked_budget(job, samples, job.request.precision)
    if not job.options.recipe_only:
        size, plain = size_of(job, made.recipe, made.arrays), size_of(job, None)
        if size >= plain:
            warnings.append(f"{NO_GAIN}: {size} bytes instead of {plain}.")
    return tuple(warnings)


def _unmet(job: Job, trial: Trial, made: Variant, plain: Trial) -> OptimizeError:
    details = {"closest": trial.summary(), "max_drop": job.request.max_drop}
    if trial.passes:
        return no_gain(job.request.precision, trial, plain, details)
    limit, palettes = "", made.palettes
    if palettes is not None:
        limit = f"; {palettes.facts['largest_weight_error']['weight']!r} loses most in itself"
    less = "more bits or smaller groups" if palettes else "less sparsity"
    return OptimizeError(
        "LPT-OPT-014",
        f"This {job.request.precision} variant does not meet the budget of {job.request.max_drop}",
        cause=f"{trial.name}: {trial.why}{limit}",
        remedy=f"Loosen --max-drop, ask for {less}, or keep names float with --option keep.",
        details=details,
    )


__all__ = ["NO_GAIN", "compress_sparse"]
