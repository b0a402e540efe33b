"""``lepton adapt``: one verb, its result in a directory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._prune import BUDGET, prune_request, receipt_lines
from lepton_core.cli._types import DURATION, FiniteType, shapes, split_list
from lepton_core.cli._verb import VerbWork, prepared, verb_options

if TYPE_CHECKING:
    from lepton_core.cli._app import App


_PRUNING = "Pruning"


@command(
    "adapt",
    examples="""
    lepton adapt digits.py:net --to openvino --shape batch=1 --out adapted
    lepton adapt model.pt2 --to onnxruntime --rewrite fold-batch-norm --out adapted
    lepton adapt digits.py:net --to onnxruntime --prune macs=0.5 --data train.npz --out pruned
    # the result is a model like any other: lepton port adapted --to openvino
    """,
)
@verb_options("lepton-adapted")
@option(
    "--rewrite",
    "rewrites",
    multiple=True,
    metavar="NAME[,NAME]",
    help="Rewrites to do, needed or not, and no others; `lepton rewrites` lists them.",
)
@option(
    "--shape",
    "sizes",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a symbolic dimension, or bounds (batch=1..8); may be repeated.",
)
@option(
    "--prune",
    group=_PRUNING,
    type=BUDGET,
    metavar="BUDGET",
    help="Remove channels until this holds: macs=0.5, parameters=0.5, latency=0.7, latency=2.5ms.",
)
@option(
    "--data",
    group=_PRUNING,
    metavar="SAMPLES",
    help="Real inputs to prune with; a part of them is held out and measured on.",
)
@option(
    "--prune-by",
    group=_PRUNING,
    type=click.Choice(["taylor", "activation", "l2", "l1"]),
    help="Importance of channels; taylor with samples and l2 without.",
)
@option(
    "--prune-multiple",
    group=_PRUNING,
    type=click.IntRange(min=1),
    metavar="N",
    help="Widths become multiples of this; by default what the target likes.",
)
@option(
    "--prune-keep",
    group=_PRUNING,
    multiple=True,
    metavar="NAME[,NAME]",
    help="Layers or modules that keep their width.",
)
@option(
    "--prune-recipe",
    group=_PRUNING,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Remove what this pruning.json says, in the place of a budget.",
)
@option(
    "--rounds",
    group=_PRUNING,
    type=click.IntRange(1, 50),
    metavar="N",
    help="Rounds of pruning; 3 by default.",
)
@option(
    "--recover-epochs",
    group=_PRUNING,
    type=click.IntRange(min=0),
    metavar="N",
    help="Passes over the samples that train what is left, all rounds together; 60 by default.",
)
@option(
    "--recover-seconds",
    group=_PRUNING,
    type=DURATION,
    metavar="DURATION",
    help="Begin no pass after this time.",
)
@option(
    "--recover-rows",
    group=_PRUNING,
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples to train on; by default as many as a calibration takes.",
)
@option(
    "--max-drop",
    group=_PRUNING,
    type=FiniteType(),
    metavar="X",
    help="Largest accepted loss of a pruned model, in the metric's own unit.",
)
def adapt_command(
    app: App,
    model: str,
    *,
    rewrites: tuple[str, ...],
    sizes: tuple[str, ...],
    **given: Any,  # noqa: ANN401
) -> int:
    """Rewrite MODEL to meet a target's declared constraints, and prune it if asked to.

    The plugin that reads MODEL's format does it, and runs the result against MODEL before it is
    written. `lepton check` says which rewrites a target needs; -v shows what else was considered.
    """
    from lepton_core.types import AdaptRequest

    fixed, bounds = shapes(sizes)
    pruning, data = prune_request(given), given.pop("data")
    work = VerbWork(app, given)
    request = AdaptRequest(
        work.target.id, split_list(rewrites), fixed, work.options, bounds, prune=pruning
    )
    with work.stage() as (stage, context, scratch):
        source = work.load(model, scratch)
        samples, notes = prepared(data, source, scratch.workdir)
        if samples is not None:
            request = replace(request, samples=samples)
        result = work.hooks.adapt(source, request, context)
        result = replace(result, warnings=(*notes, *result.warnings))
        adapted = work.close(stage, result.model, "adapt", "")
    if app.json:
        shown = ("changes", "considered", "facts", "warnings")
        work.show(adapted, **{k: getattr(result, k) for k in shown})
        return 0
    left = [f"{one.rewrite}: {line}" for one in result.considered for line in one.left]
    skipped = [one for one in result.considered if not one.changes and not one.left]
    work.show(
        adapted,
        changes=result.changes or ("none needed",),
        left=left,
        receipt=receipt_lines(result.facts.get("pruning")),
        skipped=[f"{one.rewrite}: {one.why}" for one in skipped] if app.verbose else (),
        warnings=result.warnings,
    )
    return 0


__all__ = ["adapt_command"]
