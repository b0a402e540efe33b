"""``lepton doctor``: a check-up of this environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.cli._command import command, option
from lepton_core.cli._plugins import tolerant_registry
from lepton_core.cli._table import Column, Row

if TYPE_CHECKING:
    from lepton_core.cli._app import App

_STYLES = {"ok": "green", "info": "", "warning": "yellow", "problem": "bold red"}


@command(
    "doctor",
    examples="""
    lepton doctor
    lepton doctor --json
    """,
)
@option("--no-worker", is_flag=True, show_default=False, help="Do not start a worker process.")
def doctor_command(app: App, *, no_worker: bool) -> int:
    """Check this environment and say how to repair it.

    Exit code: 0 healthy; 1 there are problems, each with what to do.
    """
    from lepton_core.doctor import diagnose

    with app.reporter() as reporter:
        bar = reporter.task("look around", None)
        diagnosis = diagnose(tolerant_registry(app), worker=not no_worker)
        bar.finish()
    if app.json:
        app.emit(diagnosis.to_dict())
        return 0 if diagnosis.ok else 1
    app.table(
        (Column("check"), Column("status", whole=True), Column("found")),
        [
            Row((f.check, f.status, f.detail), "", ((1, _STYLES[f.status]),))
            for f in diagnosis.findings
        ],
    )
    app.line()
    fixes = [f for f in diagnosis.findings if f.fix]
    for finding in fixes:
        app.line(f"{finding.status}: {finding.check}: {finding.detail}")
        app.line(f"  fix: {finding.fix}")
    if diagnosis.ok:
        app.line("healthy" + (", with warnings" if fixes else ""))
    return 0 if diagnosis.ok else 1


__all__ = ["doctor_command"]
