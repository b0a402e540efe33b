"""Walking a planned path of conversions, and where it starts and ends.

The dispatcher calls one step of one plugin; here is what lies around a whole path: an artifact is
converted from what it was lowered from, and a result directory holds that again.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_core.errors import PlanError
from lepton_core.origins import LOCATIONS, PIVOT
from lepton_core.planner import options_of
from lepton_core.types import ConvertResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.planner import Step
    from lepton_core.types import ConvertRequest, Model


@dataclass(frozen=True, slots=True)
class Walked:
    """A path that was walked.

    Attributes:
        result: The last step's model, with the facts and warnings of all.
        origin: The model that the last step lowered (:mod:`lepton_core.origins`); ``None`` if
            there was nothing to do.
        steps: The steps.
        recipe: Path of the recipe that was lowered, if one was.
    """

    result: ConvertResult
    origin: Model | None
    steps: tuple[Step, ...]
    recipe: str | None = None


def walk(
    hooks: Hooks,
    model: Model,
    request: ConvertRequest,
    place: Callable[[int, Step], Context],
) -> Walked:
    """Convert along the planned path.

    Args:
        hooks: Calls the plugins.
        model: What to convert.
        request: What is asked for.
        place: Returns the context of a step by its position, counted from the end: 0 for the
            last one. Its ``workdir`` is empty.

    Raises:
        LeptonError: What :func:`start`, :meth:`.Hooks.plan` and the plugins on the way raise.
    """
    model, request = start(hooks, model, request)
    steps = hooks.plan(model, request).steps
    origin: Model | None = None
    facts: dict[str, Any] = {}
    warned: list[str] = []
    for number, step in enumerate(steps, 1):
        context = place(len(steps) - number, step)
        context.checkpoint()
        own = replace(request, options=options_of(step, steps, request.options))
        part = hooks.convert_step(model, step, own, context)
        origin, model = model, part.model
        facts.update(part.facts)
        warned.extend(part.warnings)
    return Walked(ConvertResult(model, facts, tuple(warned)), origin, steps, request.recipe)


def start(hooks: Hooks, model: Model, request: ConvertRequest) -> tuple[Model, ConvertRequest]:
    """Return the model that a conversion starts from, and the request for it.

    That is the model itself as long as a conversion leads on from its format. An artifact of a
    target is the end of the way: what was kept beside it takes its place
    (:mod:`lepton_core.origins`), with the recipe that it was compressed by, so that another
    target gets the same integers.

    Raises:
        PlanError: LPT-PLAN-003, what it was lowered from is not there; LPT-PLAN-004, it is
            compressed, and its recipe is not there or is not what is asked for.
        StorageError: LPT-ORIG-001, what it was lowered from is damaged.
    """
    from lepton_core.origins import find_origin

    edges = [edge for info in hooks.registry.infos().values() for edge in info.edges]
    goal = request.to_format or hooks.registry.target(request.target).artifact
    as_asked = bool(model.metadata.get("recipe")) or (
        model.metadata.get("precision", "fp32") == request.precision
    )
    same = model.format == goal and request.precision == "fp32" and not request.recipe
    finished = same and as_asked
    leads_on = any(edge.source == model.format for edge in edges)
    if finished or leads_on or not any(edge.result == model.format for edge in edges):
        return model, request
    origin = find_origin(model)
    if origin is None:
        raise PlanError(
            "LPT-PLAN-003",
            f"{model.path} cannot be converted any further",
            cause="it is an artifact, and what it was lowered from is not beside it",
            remedy="Convert the model that it was built from, or build it again with this "
            "version, which keeps that.",
            details={"path": model.path, "format": model.format},
        )
    if model.metadata.get("recipe") and not request.recipe:
        request = replace(request, recipe=_recipe_of(model, request))
    return origin, request


def finished(
    result: ConvertResult, before: Model, step: Step, options: Mapping[str, Any]
) -> ConvertResult:
    """Return what a step made, with what holds for all plugins alike.

    Places of values in the source's code are the pivot's, which is kept; artifacts would only
    repeat them. The options that the step was asked for are in the lineage, so that the same can
    be built again, whatever the plugin writes down.
    """
    model = result.model
    if step.edge.result != PIVOT and LOCATIONS in model.metadata:
        model = model.evolve(metadata={k: v for k, v in model.metadata.items() if k != LOCATIONS})
    if options and len(model.lineage) > len(before.lineage):
        *steps, last = model.lineage
        if "options" not in last.request:
            plain = json.loads(json.dumps(dict(options), default=list))
            last = replace(last, request={**last.request, "options": plain})
            model = model.evolve(lineage=(*steps, last))
    return result if model is result.model else replace(result, model=model)


def options_asked(model: Model) -> dict[str, Any]:
    """Return the options of the conversion that made a model, as its lineage has them."""
    last = model.lineage[-1].request if model.lineage else {}
    options = last.get("options", {})
    return dict(options) if isinstance(options, dict) else {}


def source_of(hooks: Hooks, model: Model) -> Model:
    """Return what stands for a model as a source: for an artifact, what it was lowered from.

    Raises:
        PlanError: LPT-PLAN-003, that is not there; LPT-PLAN-004, the artifact is compressed.
        StorageError: LPT-ORIG-001, it is damaged.
    """
    from lepton_core.origins import PIVOT
    from lepton_core.types import ConvertRequest

    return start(hooks, model, ConvertRequest("", to_format=PIVOT))[0]


def _recipe_of(model: Model, request: ConvertRequest) -> str:
    """Return the recipe that a compressed artifact is lowered by again."""
    from lepton_core._recipe_step import recipe_beside

    files = recipe_beside(model)
    if files and request.precision == "fp32" and not request.to_format:
        return files[0]
    wanted = model.metadata["recipe"].get("digest")
    why = "which says what is stored as what" if files else "which is not beside it"
    raise PlanError(
        "LPT-PLAN-004",
        f"{model.path} is compressed and cannot be converted again",
        cause=f"it was lowered from the recipe {wanted}, {why}",
        remedy="Convert the float model that it was made from.",
        details={"path": model.path, "recipe": wanted},
    )


def convert_under(hooks: Hooks, model: Model, request: ConvertRequest, context: Context) -> Walked:
    """Convert, with a folder for each step below ``context.workdir`` if there are several.

    Raises:
        LeptonError: As :func:`walk`.
    """
    numbers = itertools.count()

    def place(left: int, step: Step) -> Context:
        number = next(numbers)
        if not left and not number:
            return context
        workdir = context.workdir / f"{number:02d}-{step.edge.result}"
        workdir.mkdir(parents=True, exist_ok=True)
        return replace(context, workdir=workdir)  # a hook finds its workdir empty

    return walk(hooks, model, request, place)


def convert_into(
    hooks: Hooks, model: Model, request: ConvertRequest, context: Context, scratch: Context
) -> Walked:
    """Convert, and leave in the directory of the result all that it needs later.

    That is the artifact, what it was lowered from, and the recipe if there is one.

    Args:
        hooks: Calls the plugins.
        model: What to convert.
        request: What is asked for.
        context: Its ``workdir`` is the directory of the result.
        scratch: Its ``workdir`` takes what lies between.

    Raises:
        LeptonError: As :func:`walk`.
        StorageError: The result cannot be written.
    """
    from lepton_core._recipe_step import keep_recipe
    from lepton_core.origins import ORIGIN, PIVOT, can_be_origin, find_origin, keep_origin

    def place(left: int, step: Step) -> Context:
        if not left:
            return context
        workdir = scratch.workdir / f"before-{left}-{step.edge.result}"
        workdir.mkdir()
        return replace(scratch, workdir=workdir)

    walked = walk(hooks, model, request, place)
    made = walked.result.model
    origin = walked.origin if walked.steps else find_origin(model)
    if origin is not None and made.format != PIVOT and can_be_origin(origin):
        keep_origin(origin, context.workdir / ORIGIN)
    if walked.recipe:
        keep_recipe(walked.recipe, context.workdir)
    return walked


__all__ = [
    "Walked",
    "convert_into",
    "convert_under",
    "finished",
    "options_asked",
    "source_of",
    "start",
    "walk",
]
