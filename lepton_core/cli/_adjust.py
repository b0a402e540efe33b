"""``lepton adjust``: tune a deployment, and look at or take back what was changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._deployment import EMBEDDED, EngineWork, engine_options
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import DURATION, DurationType, FiniteType
from lepton_core.cli.store_commands import open_store, store_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lepton_core.cli._app import App
    from lepton_core.types import AdjustResult

_PLAN, _MEASURE = "Plan", "Measure"


@command(
    "run",
    examples="""
    lepton adjust digits
    lepton adjust digits@production --objective throughput --rows 64 --floor 0.97
    lepton adjust digits --every 10m
    """,
)
@click.argument("reference")
@option(
    "--objective",
    type=click.Choice(["latency", "throughput", "memory"]),
    default="latency",
    help="What to improve.",
)
@option(
    "--floor", type=FiniteType(minimum=None), metavar="X", help="Lowest accepted accuracy metric."
)
@option("--policy", group=_PLAN, default="best-measured", help="Policy that plans.")
@option("--deadline", group=_PLAN, type=DURATION, default="30s", help="Time the policy may take.")
@option(
    "--min-gain", group=_PLAN, type=FiniteType(), default=0.05,
    help="Gain below which nothing is changed.",
)  # fmt: skip
@option(
    "--allow-weak", group=_PLAN, is_flag=True, show_default=False,
    help="Let variants run whose passport is weak.",
)  # fmt: skip
@option("--dry-run", group=_PLAN, is_flag=True, show_default=False, help="Measure and plan only.")
@option(
    "--rows", group=_MEASURE, type=click.IntRange(min=1), multiple=True, metavar="N",
    help="Rows of a call; may be repeated. By default what live handles measured.",
)  # fmt: skip
@option(
    "--callers", group=_MEASURE, type=click.IntRange(min=1), metavar="N",
    help="Threads that call at the same time; 1, or all CPUs for throughput, by default.",
)  # fmt: skip
@option(
    "--data", group=_MEASURE, metavar="SAMPLES",
    help="Samples to call with, and to judge answers on; golden inputs or noise if none.",
)  # fmt: skip
@option(
    "--settle", group=_MEASURE, type=DurationType(zero=True), default="20s",
    help="Time to wait for live handles to measure a change; 0 for none.",
)  # fmt: skip
@option(
    "--every",
    type=DURATION,
    metavar="TIME",
    help="Adjust again and again, until Ctrl-C; with --json a line for each time.",
)
@engine_options
def run_command(app: App, reference: str, *, every: float | None, **given: Any) -> int:  # noqa: ANN401
    """Tune the deployment NAME or NAME@ALIAS by what is measured here.

    Times the variants that were deployed under the name, with different threads and batches, lets
    a policy plan, tries its table, and keeps it only if it gains. Exit code: 0, also if nothing
    was to change; 1 the policy failed or its change was taken back.
    """
    if every is None:
        return _adjust_once(app, reference, dict(given))
    from lepton_core.errors import (
        AdjustError,
        DeployError,
        SessionError,
        StorageError,
        WorkerError,
    )

    while True:  # a change that was taken back does not end it, nor does what may pass
        try:
            _adjust_once(app, reference, dict(given))
        except (AdjustError, DeployError, SessionError, StorageError, WorkerError) as error:
            if error.code == "LPT-ADJ-007":  # what cannot be measured here never can
                raise
            app.warn(f"{error.code}: {error.message}")
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            return 0


def _adjust_once(app: App, reference: str, given: dict[str, Any]) -> int:
    from lepton_core.types import AdjustRequest, Model

    objective, floor = given.pop("objective"), given.pop("floor")
    names = ("policy", "deadline", "min_gain", "allow_weak", "dry_run", "rows", "callers")
    settings = {key: given.pop(key) for key in (*names, "data", "settle")}
    work = EngineWork(app, "adjust", given)
    name, _, alias = reference.partition("@")
    if work.engine != EMBEDDED:
        _refuse_ours(alias, [*names, "data", "settle"])
    else:
        settings["samples"] = settings.pop("data")
        settings["alias"] = alias or None
        flags = {k: v for k, v in settings.items() if v is not None}
        work.options = {**flags, **work.options}  # flags have defaults, an --option was written
    request = AdjustRequest(name, objective, floor, work.engine, work.options)
    with work.context() as context:
        result = work.hooks.adjust(Model("deployment", name), request, context)
    ok = "alarm" not in result.facts and all(
        change.get("state") != "reverted" for change in result.changes
    )
    if app.json:
        from lepton_core.codec import to_data

        app.emit({"ok": ok, **to_data(result)})
    else:
        _show_result(app, result)
    return 0 if ok else 1


def _refuse_ours(alias: str, names: list[str]) -> None:
    """Refuse what another engine would not be told.

    Raises:
        UsageError: LPT-ADJ-009, an option of the embedded engine was given, or an alias.
    """
    from click.core import ParameterSource

    from lepton_core.errors import UsageError

    context = click.get_current_context()
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    said = [f"--{name.replace('_', '-')}" for name in given] + ([f"@{alias}"] if alias else [])
    if said:
        raise UsageError(
            "LPT-ADJ-009",
            f"Only the embedded engine takes {', '.join(said)}",
            remedy="Write another engine's settings as --option KEY=VALUE.",
        )


def _show_result(app: App, result: AdjustResult) -> None:
    facts = result.facts
    if app.verbose and "observations" in facts:
        _show_observations(app, facts["observations"])
    for one in facts.get("candidates", ()):
        if one["refused"]:
            app.note(f"{one['version']} ({one['target']} {one['precision']}): {one['refused']}")
    if "alarm" in facts:
        app.line(f"{result.name}: nothing was changed; the policy failed")
        app.warn(f"{facts['alarm']['code']}: {facts['alarm']['message']}")
        return
    for change in result.changes:
        _show_change(app, change)
    if not result.changes:
        app.line(f"{result.name}: nothing to change; it runs in the best way that was measured")
    if any(change.get("state") == "planned" for change in result.changes):
        app.line("nothing was changed; this runs now:")
    if "routes" in facts:
        _show_routes(app, facts["routes"], facts.get("candidates", ()))


def _show_change(app: App, change: Mapping[str, Any]) -> None:
    if "id" not in change:  # another engine's
        app.line(", ".join(f"{k} {v}" for k, v in change.items()))
        return
    app.line(f"{change['state']} {change['id']}: {change['cause']}")
    predicted = change["predicted"].get("ratio")
    if predicted is not None:
        app.line(f"  predicted {predicted:.3f} of the cost before")
    if change["verdict"]:
        app.line(f"  {change['verdict']}")


def _show_routes(
    app: App, routes: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]
) -> None:
    variants = {one["version"]: one for one in known}
    names = ("rows", "version", "target", "precision", "threads", "batch")
    rows = []
    for route in routes:
        variant = {**variants.get(route["version"], {}), **route}
        cells = [_text(name, variant.get(name)) for name in names]
        rows.append(Row(tuple(cells)))
    app.table([Column(name, whole=name in ("rows", "version")) for name in names], rows)


def _text(name: str, value: Any) -> str:  # noqa: ANN401 - JSON types
    if value is None:
        return {"rows": "all", "threads": "default", "batch": "whole"}.get(name, "")
    return f"up to {value}" if name == "rows" else str(value)


def _show_observations(app: App, seen: Sequence[Mapping[str, Any]]) -> None:
    names = ("target", "precision", "threads", "rows", "batch", "p50_ms", "p95_ms", "rows_per_s",
             "memory_bytes")  # fmt: skip
    app.table(
        [Column(name, right=name not in ("target", "precision")) for name in names],
        [Row(tuple("" if o[n] is None else str(o[n]) for n in names)) for o in seen],
    )


@command("log", examples="lepton adjust log digits\nlepton adjust log digits@beta --json")
@click.argument("reference")
@store_option
def log_command(app: App, reference: str, *, place: Path | None) -> int:
    """Show every change of NAME: cause, prediction, measurement, verdict."""
    from lepton_core.adjusting import history

    with open_store(place) as store:
        changes = history(store, reference)
    if app.json:
        app.emit({"ok": True, "changes": [change.to_dict() for change in changes]})
        return 0
    if not changes:
        app.line(f"{reference}: nothing was changed yet")
        return 0
    ended = {c.id for c in changes if c.state != "trial"}
    changes = tuple(c for c in changes if c.state != "trial" or c.id not in ended)
    names = ("row", "time", "change", "state", "predicted", "measured", "cause", "verdict")
    rows = [
        Row(
            (
                str(c.seq),
                c.time[:19],
                c.undoes or c.id,
                c.state,
                _ratio(c.predicted),
                _ratio(c.measured),
                c.cause,
                c.verdict,
            )
        )
        for c in changes
    ]
    columns = [Column(n, whole=n in ("row", "time", "change", "state")) for n in names]
    app.table(columns, rows)
    return 0


def _ratio(values: Mapping[str, Any]) -> str:
    return f"{values['ratio']:.3f}" if "ratio" in values else ""


@command(
    "undo", examples='lepton adjust undo digits\nlepton adjust undo digits --why "p99 doubled"'
)
@click.argument("reference")
@option("--why", default="", show_default=False, help="Reason, for the ledger.")
@store_option
def undo_command(app: App, reference: str, *, why: str, place: Path | None) -> int:
    """Take back the last change of NAME that was kept; again goes further back."""
    from lepton_core.adjusting import undo

    with open_store(place) as store:
        change = undo(store, reference, why=why)
    if app.json:
        app.emit({"ok": True, **change.to_dict()})
    else:
        app.line(f"change {change.undoes} is taken back")
    return 0


@command("explain", examples="lepton adjust explain digits\nlepton adjust explain digits --json")
@click.argument("reference")
@store_option
def explain_command(app: App, reference: str, *, place: Path | None) -> int:
    """Say what runs for NAME now, by which change, and what else was considered."""
    from lepton_core.adjusting import explain

    with open_store(place) as store:
        told = explain(store, reference)
    if app.json:
        app.emit({"ok": True, **told})
        return 0
    app.line(f"{told['name']}@{told['alias']} points to {told['version']}")
    _show_routes(app, told["routes"], ())
    if told["on_trial"]:
        app.line("on trial: it is being measured at this moment")
    led = told["change"]
    if led is None:
        app.line("as it was deployed; no change counts")
    else:
        _show_change(app, led)
        _show_considered(app, led)
    last = told["last"]
    if last is not None and (led is None or last["id"] != led["id"]):
        app.line("last step:")
        _show_change(app, last)
    return 0


def _show_considered(app: App, change: Mapping[str, Any]) -> None:
    considered = change["considered"]
    for one in considered.get("candidates", ()):
        if one["refused"]:
            app.line(
                f"  not {one['version']} ({one['target']} {one['precision']}): {one['refused']}"
            )
    if considered.get("observations"):
        app.line("  what was measured:")
        _show_observations(app, considered["observations"])


class AdjustGroup(click.Group):
    """``lepton adjust NAME``, with ``log``, ``undo`` and ``explain`` beside it.

    The first word is a command only if it is one of these; ``lepton adjust run log`` adjusts a
    deployment of that name.

    Attributes:
        default: Command that is meant where none is named.
    """

    default = "run"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take a first word that is no command for the deployment to adjust."""
        known = args and args[0] in self.commands
        if not known and not set(args) & set(ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what follows the program's name."""
        return ["[OPTIONS] NAME[@ALIAS] | COMMAND NAME"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and the options of the default one."""
        rows = [(n, c.get_short_help_str(60)) for n, c in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([row for row in rows if row[0] != self.default])
        self.commands[self.default].format_options(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples of the default command."""
        self.commands[self.default].format_epilog(ctx, formatter)


adjust_command = AdjustGroup(
    "adjust",
    help=run_command.help,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _one in (run_command, log_command, undo_command, explain_command):
    adjust_command.add_command(_one)

__all__ = ["adjust_command"]
