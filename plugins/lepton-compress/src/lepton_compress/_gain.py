"""What a result gains over the float model on its target, stated whatever was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_core.gains import measure_gain, no_gain_warning
from lepton_core.types import ConvertRequest, Target

if TYPE_CHECKING:
    from lepton_compress._job import Job
    from lepton_core.samples import Samples
    from lepton_core.types import OptimizeResult


def with_gain(job: Job, result: OptimizeResult, samples: Samples | None) -> OptimizeResult:
    """Measure what a compressed model gains, if that is not known yet, and say so if nothing.

    What was chosen within a budget was timed beside the float model already; everything else is
    timed here.
    """
    if result.recipe is None or job.options.recipe_only or job.request.timing_seconds <= 0:
        return result
    if "gain" in result.facts:
        return result
    hooks = job.context.hooks
    assert hooks is not None  # noqa: S101 - checked by the engine
    target = Target(job.request.target, job.request.device)
    bar = job.context.reporter.task("time it beside the float model", 1)
    places = [job.scratch.workdir / name for name in ("gain-float", "gain-timing")]
    for place in places:
        place.mkdir()
    inside = [replace(job.scratch, workdir=place) for place in places]
    asked = ConvertRequest(target.id, device=target.device)
    plain = hooks.convert(job.base, asked, inside[0]).model
    found = measure_gain(
        hooks, (plain, result.model), target, inside[1], samples=samples,
        seconds=job.request.timing_seconds, threads=job.options.threads,
    )  # fmt: skip
    bar.finish()
    warnings = result.warnings
    said = any(text.startswith("It is neither smaller") for text in warnings)
    if not said and (warning := no_gain_warning(found)):
        warnings = (*warnings, warning)
    return replace(result, facts={**result.facts, "gain": found.to_dict()}, warnings=warnings)


__all__ = ["with_gain"]
