"""One run of the engine: what it works on, and what every way through it needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._build import unsampled_recipe
from lepton_compress._coverage import coverage
from lepton_compress._recover import recover
from lepton_compress._recover_recipe import Recovery
from lepton_compress._runtime import runtimes_of
from lepton_core import recipe as recipes
from lepton_core.artifacts import artifact_size
from lepton_core.errors import OptimizeError
from lepton_core.origins import ORIGIN, keep_origin
from lepton_core.samples import is_constant, load_samples, load_saved, match, split
from lepton_core.types import ConvertRequest
from lepton_onnx import pivot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_compress._graph import Graph
    from lepton_compress._options import Options
    from lepton_compress._probe import Prober
    from lepton_compress._pruning import Pruning
    from lepton_core.context import Context
    from lepton_core.recipe import Recipe
    from lepton_core.samples import Samples
    from lepton_core.types import Model, OptimizeRequest

RECIPE = "recipe.json"
UNSAMPLED = "No samples: nothing was calibrated or measured; verdict weak."

_FEW = 2
"""Samples that are too few to be divided."""


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        graph: The pivot's graph; pruned if weights are.
        base: The pivot.
        request: What was asked for.
        options: The engine's options.
        context: Where the result goes.
        scratch: Where everything else goes.
        pruning: What was pruned before anything else is done; ``None`` if nothing is.
        refused: Why the runtime does not load a layer that stays float, by first output.
        probers: Who asks runtimes what they load, that of the request's target first; empty if
            nobody does.
    """

    graph: Graph
    base: Model
    request: OptimizeRequest
    options: Options
    context: Context
    scratch: Context
    pruning: Pruning | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    probers: tuple[Prober, ...] = ()

    def write(
        self, recipe: Recipe, path: Path, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> Path:
        """Write a recipe with what was pruned, and its sidecar; return the path."""
        stored = dict(arrays or {})
        if self.refused:
            reasons = {n: self.refused.get(n, why) for n, why in recipe.kept_float.items()}
            recipe = replace(recipe, kept_float=reasons)
        runtime = runtimes_of(self.scratch)
        if recipe.calibration is not None and self.scratch.hooks is not None:
            ran = runtime.name(self.scratch.hooks)
            recipe = replace(recipe, calibration=replace(recipe.calibration, runtime=ran))
        if self.pruning is not None:
            recipe = replace(recipe, pruned=self.pruning.entries)
            stored |= self.pruning.arrays
        return recipes.write(recipe, path, integers=stored)

    @property
    def opset(self) -> int:
        """Opset of the pivot."""
        return int(pivot.graph_facts(self.graph.model)["opset"])


def lower(job: Job, place: Path | None) -> Model:
    """Let the target lower the recipe at *place*, or the float model if there is none.

    The pivot is kept beside what it is lowered to. Returns the pivot itself if only a recipe is
    wanted.
    """
    if job.options.recipe_only:
        return job.base
    assert job.context.hooks is not None  # noqa: S101 - checked before
    asked = ConvertRequest(
        job.request.target, device=job.request.device, recipe=None if place is None else str(place)
    )
    lowered = job.context.hooks.convert(job.base, asked, job.context).model
    if lowered.format != job.base.format:
        keep_origin(job.base, job.context.workdir / ORIGIN)
    return lowered


def load(path: str | None, base: Model) -> Samples | None:
    """Return the samples at *path* fitted to the pivot, mapped where they can be."""
    if path is None:
        return None
    saved = Path(path) / "samples.json"
    found = load_saved(path) if saved.is_file() else load_samples(path)
    signature = base.signature or pivot.signature(base.path)
    return match(found, signature)


def make(job: Job, samples: Samples | None) -> tuple[Recipe, dict[str, Any], tuple[str, ...]]:
    """Build the recipe that the options ask for.

    Returns:
        The recipe; facts with ``why``, ``verdict`` (``"weak"`` where nothing was measured) and
        ``coverage`` if held-out samples were given; warnings.
    """
    options = job.options
    sampled = samples is not None or job.request.precision == "int16"
    scheme = options.scheme or ("static" if sampled else "dynamic")
    if scheme == "static" and samples is None:
        raise OptimizeError(
            "LPT-OPT-017",
            f"Static {job.request.precision} needs samples to calibrate on",
            cause="none were given, and ranges of noise say nothing about real inputs",
            remedy="Give real inputs with --data"
            + ("." if job.request.precision == "int16" else ", or choose --option scheme=dynamic."),
        )
    if scheme != "static" or samples is None:
        return _unsampled(job, scheme, samples)
    recovery, tried = Recovery(), {}
    if options.recover:
        recovery, tried = recover(job, samples)
    recipe, ranges = recovery.recipe(job, samples, options.estimator, options.keep)
    facts: dict[str, Any] = {
        "why": f"static {recipe.precision}, calibrated on {len(samples)} samples "
        f"({options.estimator})",
        "recipe": {"digest": recipe.digest, "scheme": recipe.scheme},
        "integer_layers": len(recipe.layers),
        "kept_float": len(recipe.kept_float),
        "verdict": "unmeasured",
        "engine": f"lepton-compress {__version__}",
        **tried,
    }
    warnings = list(unchecked_budget(job, samples))
    if is_constant(samples) or samples.distinct == 1:
        facts["verdict"] = "weak"
        warnings.append(
            "All calibration samples are equal: the ranges cover one input only; verdict weak."
        )
    if options.held_out is not None:
        held_out = load_saved(options.held_out)
        graph, _ = recovery.on(job.graph)
        share = coverage(graph, ranges, held_out, job.scratch, options.threads)
        facts["coverage"] = share
    return recipe, facts, tuple(warnings)


def _unsampled(
    job: Job, scheme: str, samples: Samples | None
) -> tuple[Recipe, dict[str, Any], tuple[str, ...]]:
    recipe = unsampled_recipe(
        job.graph, job.base.digest, job.opset, dynamic=scheme == "dynamic", keep=job.options.keep
    )
    facts: dict[str, Any] = {
        "why": f"{scheme} int8: nothing was calibrated",
        "recipe": {"digest": recipe.digest, "scheme": recipe.scheme},
        "layers": len(recipe.layers),
        "verdict": "weak" if samples is None else "unmeasured",
        "engine": f"lepton-compress {__version__}",
    }
    warnings = list(unchecked_budget(job, samples, scheme))
    if samples is None:
        warnings.insert(0, UNSAMPLED)
        if job.options.recover:
            warnings.append("Nothing was recovered: there are no samples; give --data.")
    return recipe, facts, tuple(warnings)


def divisible(samples: Samples | None) -> bool:
    """Tell whether samples can be divided into rows to calibrate on and rows to measure."""
    return samples is not None and len(samples) > _FEW


def rows_to_calibrate(job: Job, samples: Samples | None) -> Samples | None:
    """Return the rows that may be looked at before anything is measured."""
    if samples is None or not divisible(samples):
        return samples
    return split(samples, seed=job.context.seed)[0] or samples


def size_of(
    job: Job, recipe: Recipe | None, arrays: Mapping[str, NDArray[Any]] | None = None
) -> int:
    """Return the bytes of what the target makes of a recipe, or of the float model without."""
    name = "size-float" if recipe is None else "size-made"
    inside = replace(job.scratch, workdir=job.scratch.workdir / name)
    inside.workdir.mkdir()
    place = None if recipe is None else str(job.write(recipe, inside.workdir / RECIPE, arrays))
    asked = ConvertRequest(job.request.target, device=job.request.device, recipe=place)
    assert inside.hooks is not None  # noqa: S101 - checked before
    return artifact_size(inside.hooks.convert(job.base, asked, inside).model)


def unchecked_budget(job: Job, samples: Samples | None, scheme: str = "static") -> tuple[str, ...]:
    """Return a warning where ``max_drop`` was given and nothing can be measured against it."""
    if job.request.max_drop is None:
        return ()
    if samples is None:
        why, remedy = "there are no samples", "give --data"
    elif not divisible(samples):
        why = f"{len(samples)} samples cannot be divided into rows to calibrate and to measure on"
        remedy = "give --data with more"
    else:
        why, remedy = f"the scheme {scheme} is not measured", "choose static, and give --data"
    return (f"The budget was not checked: {why}; {remedy}.",)


__all__ = [
    "RECIPE", "UNSAMPLED", "Job", "divisible", "load", "lower", "make", "rows_to_calibrate",
    "size_of", "unchecked_budget",
]  # fmt: skip
