"""The second step: the same thing, lowered for the new target."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core import origins
from lepton_core.errors import MigrateError
from lepton_core.evaluate import evaluate_isolated
from lepton_core.migration._plan import RECIPE
from lepton_core.types import REFERENCE_DEVICE, ConvertRequest, EvaluateRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.migration._plan import Plan
    from lepton_core.store import Store
    from lepton_core.types import EvaluateResult, Model, OpenRequest

    Array = NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """What was built, with everything that is stored with it.

    Attributes:
        model: The artifact.
        precision: Its precision.
        recipe: Files of the recipe that made it.
        golden: Folder of golden pairs; the inputs are those of the old version.
        origin: Folder of what it was lowered from.
        facts: What the converter said.
        warnings: What the user should know.
    """

    model: Model
    precision: str
    recipe: tuple[Path, ...]
    golden: Path | None
    origin: Path | None
    facts: Mapping[str, Any]
    warnings: tuple[str, ...]


@contextmanager
def built(
    store: Store, hooks: Hooks, plan: Plan, opening: OpenRequest, context: Context
) -> Iterator[Candidate]:
    """Lower the origin of the old version for the new target, with the same recipe.

    The artifact is opened and run once, in the runtime's own worker process.

    Args:
        store: The store.
        hooks: Calls the plugins.
        plan: What to build.
        opening: How the deployment's sessions are opened on the new target.
        context: Where to write.

    Yields:
        The candidate; its files go when the block ends.

    Raises:
        StorageError: LPT-STORE-004, LPT-ORIG-001, what it is built from is damaged.
        ConversionError: It cannot be lowered.
        OptimizeError: The recipe does not fit.
        SessionError: It does not open or run here.
        MigrateError: LPT-MIG-006, another recipe came out than went in; LPT-MIG-011, this machine
            would only interpret it.
    """
    folder = context.workdir / "build"
    folder.mkdir()
    with store.view(plan.old, origin=True) as view:
        source = plan.source or origins.find_origin(view.model) or view.model
        recipe = view.folder / "recipe" / RECIPE if plan.recipe else None
        request = ConvertRequest(
            plan.target.id,
            device=plan.target.device,
            recipe=None if recipe is None else str(recipe),
            options=_options(hooks, plan),
        )
        if recipe is None:
            request = replace(request, precision=plan.precision)
        done, before = hooks.lower(source, request, replace(context, workdir=folder))
        _check_recipe(plan, done.model)
        origin = None
        if before is not None and origins.can_be_origin(before):
            origin = context.workdir / "kept"
            origins.keep_origin(before, origin)
        golden = _golden(
            hooks, view.folder / "golden", plan, done.model,
            opening=opening, context=context,
        )  # fmt: skip
        files = sorted((view.folder / "recipe").glob("*")) if plan.recipe else []
        yield Candidate(
            done.model, plan.precision, tuple(files), golden, origin, done.facts, done.warnings
        )


def _options(hooks: Hooks, plan: Plan) -> dict[str, Any]:
    """Return the options of the old version's conversion where they mean something: to its runtime.

    Another runtime's options are others, and those of the way before are in the origin.
    """
    from lepton_core.conversion import options_asked

    same = plan.old.model.format == hooks.registry.target(plan.target.id).artifact
    return options_asked(plan.old.model) if same else {}


def _check_recipe(plan: Plan, model: Model) -> None:
    """Make sure that the artifact was made by the very recipe of the old version."""
    if plan.recipe is None:
        return
    made_by = (model.metadata.get("recipe") or {}).get("digest")
    if made_by != plan.recipe.digest:
        raise MigrateError(
            "LPT-MIG-006",
            f"The artifact for {plan.target} was not made by the recipe of {plan.old.id}",
            cause=f"the recipe is {plan.recipe.digest}, the artifact says {made_by}",
            remedy=f"Report this to the makers of the plugin for {plan.target.id}.",
        )


def as_one_row(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return one batch as samples of one row, which is fed as it is."""
    return {name: np.asarray(array)[None] for name, array in inputs.items()}


def run_isolated(
    hooks: Hooks,
    model: Model,
    opening: OpenRequest,
    samples: Path,
    context: Context,
    *,
    name: str,
    latency_seconds: float = 0.0,
) -> EvaluateResult:
    """Run an artifact over saved samples in its runtime's worker, as the deployment opens it."""
    folder = context.workdir / name
    folder.mkdir()
    request = EvaluateRequest(
        opening.target,
        str(samples),
        out=str(folder / "outputs"),
        device=opening.device,
        threads=opening.threads,
        latency_seconds=latency_seconds,
        options=opening.options,
    )
    return evaluate_isolated(hooks, model, request, replace(context, workdir=folder))


def check_runs_here(target: str, facts: Mapping[str, Any], deployed: str) -> None:
    """Refuse live traffic for an interpreter that stands in for another device.

    It is there to prove a graph, and its speed says nothing. Who names it (``coreml:reference``)
    knows that, and is not refused.

    Args:
        target: Target string.
        facts: What the session of the target's artifact told about itself.
        deployed: What is to be moved, as commands take it (``"digits@production"``).

    Raises:
        MigrateError: LPT-MIG-011.
    """
    asked = Target.parse(target)
    if facts.get("device") != REFERENCE_DEVICE or asked.device == REFERENCE_DEVICE:
        return
    raise MigrateError(
        "LPT-MIG-011",
        f"{target} is interpreted here, not run: {deployed} would be served by an interpreter",
        cause=f"the device that {asked.id} is for is not this machine; {facts.get('runtime')} "
        "stands in for it",
        remedy=f"Write what an app takes along: lepton deploy {deployed} --name NAME --to {target} "
        f"--kind bundle. To serve from the interpreter all the same, name it: --to "
        f"{asked.id}:{REFERENCE_DEVICE}.",
        details={"target": target, "runtime": facts.get("runtime")},
    )


def _golden(
    hooks: Hooks, old: Path, plan: Plan, model: Model, *, opening: OpenRequest, context: Context
) -> Path | None:
    """Write golden pairs of the new version: the old one's inputs, what it answers to them."""
    from lepton_core.deployment._golden import origin_of, read_golden, tolerance_of, write_golden
    from lepton_core.samples import Samples, save

    if not (old / "golden.json").is_file():
        return None
    inputs, _, _ = read_golden(old)
    samples = save(Samples(as_one_row(inputs)), context.workdir / "golden-in")
    found = run_isolated(hooks, model, opening, samples, context, name="golden-run")
    # Before all of the recorded rows go through it, too, which may take an interpreter long.
    check_runs_here(str(plan.target), found.facts, plan.deployed)
    outputs = {name: np.load(path)[0] for name, path in found.outputs.items()}
    return write_golden(
        context.workdir / "golden",
        inputs,
        outputs,
        origin=origin_of(old),
        rel_l2=tolerance_of(plan.precision),
    )


__all__ = ["Candidate", "as_one_row", "built", "check_runs_here", "run_isolated"]
