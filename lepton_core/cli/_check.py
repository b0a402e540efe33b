"""``lepton check``: the pre-flight matrix."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import DURATION, SIZE, TargetType, split_list

if TYPE_CHECKING:
    from lepton_core.cli._app import App
    from lepton_core.preflight import PreflightReport, TargetCheck

_STYLES = {"fits": "green", "needs-rewrite": "yellow", "impossible": "red"}


@command(
    "check",
    examples="""
    lepton check model.onnx
    lepton check digits.py:net --to onnxruntime,openvino
    lepton check model.pt2 --to onnxruntime --json
    """,
)
@click.argument("model")
@option(
    "--to",
    "targets",
    multiple=True,
    metavar="TARGET[,TARGET]",
    type=TargetType(several=True),
    help="Targets to ask; all known ones if not given.",
)
@option("--time-limit", group="Limits", type=DURATION, help="Time for each worker's job.")
@option("--mem-limit", group="Limits", type=SIZE, help="Memory for each worker.")
def check_command(
    app: App,
    model: str,
    *,
    targets: tuple[str, ...],
    time_limit: float | None,
    mem_limit: int | None,
) -> int:
    """Say what would fit where, without converting MODEL.

    For each target: fits, needs a rewrite (which), or impossible (why, and where in the source).

    Exit code: 0 every target asked for fits or needs a rewrite that is supported; 1 otherwise.
    Without --to, targets that are not installed do not count.
    """
    from lepton_core.context import Context
    from lepton_core.preflight import check
    from lepton_core.types import Limits

    with (
        tempfile.TemporaryDirectory(prefix="lepton-check-") as workdir,
        app.reporter() as reporter,
    ):
        limits = Limits(time_limit, mem_limit)
        context = Context(Path(workdir), reporter=reporter, limits=limits)
        report = check(model, split_list(targets), app.hooks(), context)
    if app.json:
        app.emit(report.to_dict())
    else:
        _show(app, report)
    return 0 if report.ok else 1


def _show(app: App, report: PreflightReport) -> None:
    found = report.inspection
    kinds, uses = len(found.operators), sum(operator.count for operator in found.operators)
    app.line(f"{found.model.path}  ({found.model.format})")
    if found.model.signature is not None:
        app.line(f"  {found.model.signature}")
    if kinds:
        app.line(f"  {found.parameters:,} parameters, {uses} operators of {kinds} kinds")
    app.line()
    app.table(
        (
            Column("target", whole=True),
            Column("verdict", whole=True),
            Column("precisions"),
            Column("way"),
            Column("why"),
        ),
        [_row(target) for target in report.targets],
    )


def _row(target: TargetCheck) -> Row:
    verdict = target.verdict.replace("-", " ")
    reasons = target.reasons if target.verdict != "unavailable" or not target.remedy else ()
    why = "; ".join((*reasons, *filter(None, (target.remedy,))))
    return Row(
        (
            target.target,
            verdict,
            precisions_text(target),
            " -> ".join(target.path),
            why,
        ),
        "dim" if target.verdict == "unavailable" else "",
        ((1, _STYLES.get(target.verdict, "")),),
    )


def precisions_text(target: TargetCheck) -> str:
    """Return ``fp32, fp16; int8, int4 with compress``."""
    parts = [", ".join(target.precisions)]
    parts += [f"{', '.join(made)} with {engine}" for engine, made in target.by_engine.items()]
    return "; ".join(filter(None, parts))


__all__ = ["check_command"]
