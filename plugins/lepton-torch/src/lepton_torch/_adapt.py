"""Fits a torch model to what a target declares, and proves that it still computes the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_core.capabilities import Constraints
from lepton_core.codec import to_data
from lepton_core.errors import UsageError
from lepton_core.files import digest_path
from lepton_core.types import AdaptResult, RewriteReport
from lepton_torch._adapt_plan import Plan, make_plan
from lepton_torch._adapt_refuse import (
    refuse_custom_operators,
    refuse_training_mode,
    refuse_unmet,
    unmet,
)
from lepton_torch._adapt_run import Runner
from lepton_torch._archive import load_program, save_program
from lepton_torch._capture import capture
from lepton_torch._facts import lineage_step
from lepton_torch._operators import refuse_state
from lepton_torch._sources import open_source

if TYPE_CHECKING:
    import torch

    from lepton_core.context import Context
    from lepton_core.types import AdaptRequest, LineageStep, Model, PruneRequest
    from lepton_torch._program import Program
    from lepton_torch._pruning._run import Pruned

_FORMATS = {"torch.factory", "huggingface", "torch.export"}


@dataclass
class Source:
    """What is adapted.

    Attributes:
        program: The exported program.
        digest: Digest of what the user named.
        example: The user's example inputs, if it is a live source.
        warnings: What the user should know.
    """

    program: Program
    digest: str
    example: dict[str, torch.Tensor] | None = None
    warnings: list[str] = field(default_factory=list)


def adapt(model: Model, request: AdaptRequest, context: Context) -> AdaptResult | None:
    """Rewrite a model for a target and prove the result on example and random inputs.

    Works on the exported program: a live source is exported first. Every rewrite that changed
    something is run against the graph before it, and the program that is written against the
    original; nothing is written if one differs by more than the rewrites declare. With
    ``request.prune`` channels are removed before (:func:`._pruning._run.prune`), and the pruned
    program is the original of the rewrites.

    Args:
        model: Of format ``torch.factory``, ``huggingface`` or ``torch.export``.
        request: The target's constraints, rewrites, sizes, bounds and what to prune. No options are
            known.
        context: Where to write ``model.pt2`` and ``pruning.json``; the seed of all that is random.

    Returns:
        A model of format ``torch.export``. An exported program that needs no change is returned
        as it is. ``None`` for another format.

    Raises:
        SourceError: The model cannot be read.
        ConversionError: It cannot be exported.
        UsageError: LPT-ADAPT-003, LPT-ADAPT-004, LPT-ADAPT-012, LPT-ADAPT-022: a size, option or
            budget is wrong.
        AdaptError: LPT-ADAPT-005 to LPT-ADAPT-023: it cannot be adapted; says where and why.
    """
    if model.format not in _FORMATS:
        return None
    if request.options:
        raise UsageError(
            "LPT-ADAPT-012",
            f"lepton-torch knows no option {sorted(request.options)[0]!r} for adapt",
            remedy="There are none; rewrites, shapes and bounds are part of the request.",
        )
    task = context.reporter.task("Adapt")
    source = _read(model, context)
    program = source.program
    refuse_state(program.exported)
    refuse_custom_operators(program)
    refuse_training_mode(program)
    constraints = request.constraints or Constraints()
    pruned = None
    if request.prune is not None:
        pruned = _pruned(source, request, request.prune, constraints, context)
        program = pruned.program
    plan = make_plan(program, request, constraints, model.format, context)
    runner = Runner(program, constraints, plan, source.example, context)
    reports = runner.run_all()
    adapted = runner.finish()
    open_ends = unmet(adapted, constraints, reports)
    warnings = [*source.warnings, *(pruned.warnings if pruned else ()), *plan.notes]
    if request.rewrites:  # the user has chosen; what is still open is said
        warnings += [f"{request.target} still cannot run it: {end}" for end in open_ends]
    else:
        refuse_unmet(open_ends, request.target)
    changes = tuple(line for report in reports for line in report.changes)
    if pruned is not None:
        changes = (*pruned.changes, *changes)
        reports.insert(0, RewriteReport("prune", pruned.changes, pruned.left, why="asked for"))
    result = model
    cut = pruned is not None and pruned.cut
    if changes or cut or model.format != "torch.export":  # a file that needs no change stays
        step = _step(source.digest, request, plan, changes)
        result = _result(model, adapted, step, request, context)
    task.finish()
    facts = {"pruning": pruned.receipt} if pruned else {}
    return AdaptResult(result, changes, tuple(warnings), tuple(reports), facts)


def _pruned(
    source: Source,
    request: AdaptRequest,
    asked: PruneRequest,
    constraints: Constraints,
    context: Context,
) -> Pruned:
    """Remove channels as asked, before anything is rewritten."""
    from lepton_torch._pruning._options import read_settings
    from lepton_torch._pruning._run import prune

    samples = None
    if request.samples is not None:
        from lepton_core.samples import load_samples, match
        from lepton_torch._pruning._data import divide

        found = match(load_samples(request.samples), source.program.signature)
        samples = divide(found, source.program, asked.rows, context.seed)
    settings = read_settings(asked, constraints, samples is not None)
    return prune(
        source.program, settings, samples, target=request.target, digest=source.digest,
        context=context,
    )  # fmt: skip


def _read(model: Model, context: Context) -> Source:
    if model.format == "torch.export":
        return Source(load_program(model.path), model.digest or digest_path(model.path))
    with open_source(model, context.seed) as live:
        program, warnings = capture(live)
        return Source(program, model.digest or live.digest, dict(live.inputs), list(warnings))


def _result(
    model: Model, program: Program, step: LineageStep, request: AdaptRequest, context: Context
) -> Model:
    """Write an adapted program and return it as a model."""
    changes = step.request["changes"]
    program.notes = {**program.notes, **_facts(program)}
    if changes:
        before = list(program.notes.get("adapted", ()))
        now = {"target": request.target, "changes": changes}
        program.notes["adapted"] = [*before, now]
    path = context.workdir / "model.pt2"
    save_program(program, path)
    metadata = {**model.metadata, **program.notes}
    metadata.pop("artifacts", None)
    return dataclasses.replace(
        model,
        format="torch.export",
        path=str(path),
        entry=None,
        signature=program.signature,
        digest=digest_path(path),
        lineage=(*model.lineage, step),
        metadata=metadata,
    )


def _facts(program: Program) -> dict[str, Any]:
    batch = "batch" in program.bounds
    return {
        "dynamic_batch": batch,
        "batch_symbol": "batch" if batch else None,
        "symbols": {name: list(limits) for name, limits in program.bounds.items()},
    }


def _step(parent: str, request: AdaptRequest, plan: Plan, changes: tuple[str, ...]) -> LineageStep:
    asked = {
        "target": request.target,
        "rewrites": list(request.rewrites),
        "shapes": dict(plan.fixed),
        "bounds": {name: list(limits) for name, limits in plan.bounds.items()},
        "changes": list(changes),
    }
    if request.prune is not None:
        asked["prune"] = to_data(request.prune)
    return lineage_step("adapt", parent, asked)


__all__ = ["adapt"]
