"""Weights that stay float and become smaller: pruned, or places in tables of few values.

A file gets smaller by them, and by nothing else: the runtimes put weights together as they load a
model, and compute with them as with any others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._bench import Bench, Trial
from lepton_compress._build import in_order
from lepton_compress._job import RECIPE, Job, divisible, lower, unchecked_budget
from lepton_compress._palettes import Palettes, palettize_weights
from lepton_compress._sparse_options import PALETTE
from lepton_core.artifacts import artifact_size
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Calibration, PivotId, Recipe
from lepton_core.samples import split
from lepton_core.types import ConvertRequest, OptimizeResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.samples import Samples

NO_GAIN = "It is neither smaller nor faster here than the float model"


def compress_sparse(job: Job, samples: Samples | None) -> OptimizeResult:
    """Build, measure and lower what was pruned, or palettes.

    With samples that can be divided, the result is measured on rows that Wanda did not see,
    against the model as it was; a budget must be kept there, and something gained.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to palettize, ``LPT-OPT-014`` the budget
            is not met, or met by what is neither smaller nor faster.
    """
    palettes = None
    if job.request.precision == PALETTE:
        pruned = frozenset(job.pruning.entries if job.pruning else ())
        palettes = palettize_weights(job.graph, job.options, pruned)
    recipe = _recipe(job, samples, palettes)
    arrays: dict[str, NDArray[Any]] = dict(palettes.arrays) if palettes else {}
    name = _name(job, palettes)
    facts: dict[str, Any] = {"engine": f"lepton-compress {__version__}"}
    if job.pruning is not None:
        facts["pruning"] = job.pruning.facts
    if palettes is not None:
        facts["palettes"] = palettes.facts
    if samples is not None and divisible(samples):
        bench = Bench.prepare(job, split(samples, seed=job.context.seed)[1])
        plain = bench.measure_float()
        trial = bench.measure(name, recipe, "", (), arrays)
        facts |= {"verdict": trial.verdict, "measured_on": bench.rows,
                  "trials": [plain.summary(), trial.summary()]}  # fmt: skip
        if job.request.max_drop is not None and not (trial.passes and trial.gains):
            raise _unmet(job, trial, palettes)
        why = f"{name}: {trial.gains or 'no gain'}; {trial.why}"
        warnings = () if trial.gains else (f"{NO_GAIN}.",)
    else:
        facts["verdict"] = "weak" if samples is None else "unmeasured"
        why = name
        warnings = _unmeasured(job, samples, recipe, arrays)
    place = job.write(recipe, job.context.workdir / RECIPE, arrays)
    return OptimizeResult(lower(job, place), str(place), why, facts, warnings)


def _recipe(job: Job, samples: Samples | None, palettes: Palettes | None) -> Recipe:
    calibration = None
    if samples is not None and job.pruning is not None and job.options.prune == "wanda":
        rows = split(samples, seed=job.context.seed)[0] if divisible(samples) else None
        seen = rows or samples
        calibration = Calibration(len(seen), seen.digest, "wanda", samples.origin)
    entries = in_order(job.graph, dict(palettes.entries)) if palettes else {}
    return Recipe(
        PivotId(job.base.digest, job.opset),
        job.request.precision,
        {},
        {},
        {},
        calibration=calibration,
        written_by=f"lepton-compress {__version__}",
        palettes=entries,
    )


def _name(job: Job, palettes: Palettes | None) -> str:
    parts = []
    if palettes is not None:
        group = f" for every {job.options.group} channels" if job.options.group else ""
        parts.append(f"palettes of {job.options.palette} bits{group}")
    if job.pruning is not None:
        found = job.pruning.facts
        how = found["pattern"] or f"{100 * found['sparsity']:.3g} %"
        parts.append(f"{how} pruned by {found['method']} ({found['scope']})")
    return ", ".join(parts)


def _unmeasured(
    job: Job, samples: Samples | None, recipe: Recipe, arrays: dict[str, NDArray[Any]]
) -> tuple[str, ...]:
    warnings = [] if samples is not None else ["No samples: nothing was measured; verdict weak."]
    warnings += unchecked_budget(job, samples, job.request.precision)
    if not job.options.recipe_only:
        sizes = [_size(job, made, arrays) for made in (recipe, None)]
        if sizes[0] >= sizes[1]:
            warnings.append(f"{NO_GAIN}: {sizes[0]} bytes instead of {sizes[1]}.")
    return tuple(warnings)


def _size(job: Job, recipe: Recipe | None, arrays: dict[str, NDArray[Any]]) -> int:
    folder = job.scratch.workdir / ("size" if recipe is None else "size-float")
    folder.mkdir()
    place = None if recipe is None else str(job.write(recipe, folder / RECIPE, arrays))
    asked = ConvertRequest(job.request.target, recipe=place)
    out = folder / "model"
    out.mkdir()
    inside = replace(job.scratch, workdir=out)
    assert inside.hooks is not None  # noqa: S101 - checked before
    return artifact_size(inside.hooks.convert(job.base, asked, inside).model)


def _unmet(job: Job, trial: Trial, palettes: Palettes | None) -> OptimizeError:
    why = "it is neither smaller nor faster here" if trial.passes else trial.why
    limit = ""
    if palettes is not None:
        limit = f"; {palettes.facts['largest_weight_error']['weight']!r} loses most in itself"
    less = "more bits or smaller groups" if palettes else "less sparsity"
    return OptimizeError(
        "LPT-OPT-014",
        f"This {job.request.precision} variant does not meet the budget of {job.request.max_drop}",
        cause=f"{trial.name}: {why}{limit}",
        remedy=f"Loosen --max-drop, ask for {less}, or keep names float with --option keep.",
        details={"closest": trial.summary(), "max_drop": job.request.max_drop},
    )


__all__ = ["NO_GAIN", "compress_sparse"]
