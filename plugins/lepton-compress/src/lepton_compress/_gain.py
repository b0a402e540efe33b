"""What a result gains over the float model on its target, stated whatever was asked for."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compress._job import RECIPE
from lepton_core.errors import LeptonError, OperationCancelledError, StorageError
from lepton_core.gains import measure_gain, no_gain_warning
from lepton_core.types import ConvertRequest, Target

if TYPE_CHECKING:
    from lepton_compress._job import Job
    from lepton_core.context import Context
    from lepton_core.gains import Gain
    from lepton_core.recipe import Recipe
    from lepton_core.samples import Samples
    from lepton_core.types import Model, OptimizeResult


def with_gain(job: Job, result: OptimizeResult, samples: Samples | None) -> OptimizeResult:
    """Measure what a compressed model gains, if that is not known yet, and say so if nothing.

    What was chosen within a budget was timed beside the float model already; everything else is
    timed here. No result is lost because its float model cannot be lowered to be timed beside it.
    """
    if result.recipe is None or job.options.recipe_only or job.request.timing_seconds <= 0:
        return result
    if "gain" in result.facts:
        return result
    bar = job.context.reporter.task("time it beside the float model", 1)
    try:
        found = gain_beside_float(job, result.model, samples)
    except (OperationCancelledError, StorageError):
        raise
    except LeptonError as error:  # a target of integers alone, or a converter that crashes
        text = f"What it gains was not measured, as the float model cannot be built: {error}"
        return replace(result, warnings=(*result.warnings, text))
    finally:
        bar.finish()
    warnings = result.warnings
    said = any(text.startswith("It is neither smaller") for text in warnings)
    if not said and (warning := no_gain_warning(found)):
        warnings = (*warnings, warning)
    return replace(result, facts={**result.facts, "gain": found.to_dict()}, warnings=warnings)


def gain_beside_float(job: Job, made: Model, samples: Samples | None) -> Gain:
    """Lower the float model and return what another of the same target gains over it.

    Raises:
        LeptonError: The target does not build the float model.
    """
    hooks = job.context.hooks
    assert hooks is not None  # noqa: S101 - checked by the engine
    target = Target(job.request.target, job.request.device)
    plain, timing = (_place(job, name) for name in ("gain-float", "gain-timing"))
    asked = ConvertRequest(target.id, device=target.device)
    return measure_gain(
        hooks, (hooks.convert(job.base, asked, plain).model, made), target, timing,
        samples=samples, seconds=job.request.timing_seconds, threads=job.options.threads,
    )  # fmt: skip


def gain_of_recipe(job: Job, recipe: Recipe, samples: Samples | None) -> Gain:
    """Return what a recipe would gain over the float model; nothing of it is kept."""
    hooks = job.context.hooks
    assert hooks is not None  # noqa: S101 - checked by the engine
    place = _place(job, "gain-recipe")
    path = job.write(recipe, place.workdir / RECIPE)
    asked = ConvertRequest(job.request.target, device=job.request.device, recipe=str(path))
    return gain_beside_float(job, hooks.convert(job.base, asked, place).model, samples)


def _place(job: Job, name: str) -> Context:
    folder = tempfile.mkdtemp(prefix=f"{name}-", dir=job.scratch.workdir)
    return replace(job.scratch, workdir=Path(folder))


__all__ = ["gain_beside_float", "gain_of_recipe", "with_gain"]
