"""``lepton migrate``: a deployment to another target, with the proof on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lepton_core.cli._command import command, option
from lepton_core.cli._deployment import EMBEDDED, EngineWork, engine_options
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import METRIC, DurationType, FiniteType, TargetType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App
    from lepton_core.types import MigrateResult

EXIT_DONE, EXIT_RETURNED, EXIT_ONLY_WEAK = 0, 1, 3
_COLORS = {"pass": "green", "weak": "yellow", "fail": "red"}
_SHOWN_WORST = 5
_PROOF, _AFTER = "Proof", "After the switch"


@command(
    "migrate",
    examples="""
    # compare on recorded inputs, switch, follow the deployment for ten minutes
    lepton migrate digits --to openvino --data samples.npz --watch 10m
    # build and compare, and leave everything as it is
    lepton migrate digits --to openvino --data samples.npz --dry-run
    # take up what a process that died has left
    lepton migrate digits --resume
    lepton migrate digits --log
    """,
)
@click.argument("name")
@option("--to", "target", metavar="TARGET", type=TargetType(), help="New target.")
@option("--alias", default="production", help="Alias to move.")
@option(
    "--source",
    "--model",
    "model",
    metavar="MODEL",
    help="What it was built from, where that is not stored with it.",
)
@option("--resume", is_flag=True, show_default=False, help="Take up an interrupted migration.")
@option(
    "--dry-run", is_flag=True, show_default=False, help="Build and compare; write and move nothing."
)
@option("--log", is_flag=True, show_default=False, help="Show the steps of earlier migrations.")
@option("--why", help="Reason, for the ledger.")
@option("--data", group=_PROOF, metavar="SAMPLES", help="Recorded inputs to compare on.")
@option("--metric", group=_PROOF, type=METRIC, metavar="NAME[:OUTPUT]", help="Metric to judge by.")
@option(
    "--max-drop",
    group=_PROOF,
    type=FiniteType(),
    metavar="X",
    help="Largest accepted loss in the metric's own unit.",
)
@option(
    "--allow-weak",
    group=_PROOF,
    is_flag=True,
    show_default=False,
    help="Move although the inputs cannot carry the proof.",
)
@option(
    "--page",
    group=_PROOF,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the comparison as a page.",
)
@option(
    "--watch",
    group=_AFTER,
    type=DurationType(zero=True),
    metavar="TIME",
    help="How long to follow the deployment; 30s if not given.",
)
@engine_options
def migrate_command(
    app: App,
    name: str,
    *,
    target: str | None,
    model: str | None,
    log: bool,
    **given: Any,  # noqa: ANN401
) -> int:
    """Move the deployment NAME to another target, if it proves to be the same there.

    What the present version was lowered from is lowered for the new target, with the same recipe,
    and compared with the present version. The alias moves only if both are equivalent, and moves
    back if the deployment alarms while it is watched.

    Exit code: 0 moved (or would be, in a dry run); 1 it returned to the old version, which goes
    on serving; 3 not moved, because the inputs are too few or no data.
    """
    from lepton_core.types import MigrateRequest

    names = ("alias", "resume", "dry_run", "why", "data", "metric", "max_drop", "allow_weak")
    settings = {key: given.pop(key) for key in (*names, "page", "watch")}
    if log:
        return _show_log(app, name, given["place"], settings["alias"])
    work = EngineWork(app, "migrate", given)
    source = click.get_current_context().get_parameter_source("alias")
    if work.engine != EMBEDDED and source is not ParameterSource.COMMANDLINE:
        del settings["alias"]  # another engine is told what the user said, not our default
    for key, value in settings.items():
        if value is not None and value is not False:
            work.options[key] = value
    request = MigrateRequest(name, _target(work, target, settings), work.engine, work.options)
    with work.context() as context:
        result = work.hooks.migrate(work.load(model, name), request, context)
    code = _exit_code(result)
    if app.json:
        from lepton_core.codec import to_data

        app.emit({"ok": code == EXIT_DONE, **to_data(result)})
    else:
        _show(app, result)
    return code


def _target(work: EngineWork, text: str | None, settings: Mapping[str, Any]) -> str:
    """Return the target string; empty if the interrupted migration knows it.

    Raises:
        UsageError: LPT-USE-110, neither is given.
    """
    from lepton_core.errors import UsageError

    if text is not None:
        work.target(text)
        return text if work.engine == EMBEDDED else work.target(text)
    if not settings["resume"]:
        raise UsageError(
            "LPT-USE-110",
            "A migration needs a target",
            remedy="Give one with --to TARGET; or --resume takes up an interrupted migration.",
        )
    return ""


def _exit_code(result: MigrateResult) -> int:
    facts = result.facts
    if result.outcome == "done" or facts.get("would_switch"):
        return EXIT_DONE
    return EXIT_ONLY_WEAK if facts.get("verdict") == "weak" else EXIT_RETURNED


# --- what the user sees ------------------------------------------------------------------------


def _show(app: App, result: MigrateResult) -> None:
    facts = result.facts
    if "from" not in facts or not isinstance(facts["from"], dict):  # another engine's
        app.line(f"{result.name}: {result.outcome}; {result.why}")
        return
    old, new = facts["from"], facts["to"]
    app.line(
        f"{result.name}@{facts['alias']}: {old['version']} ({old['target']}) -> "
        f"{new['version'] or 'not stored'} ({new['target']})"
    )
    if "outputs" in facts:
        _show_proof(app, facts)
    color = "green" if result.outcome == "done" else "yellow"
    app.line(f"{app.style(result.outcome, fg=color, bold=True)}: {result.why}")


def _show_proof(app: App, facts: Mapping[str, Any]) -> None:
    from lepton_core.cli._port import metric_text

    samples = facts["samples"]
    verdict = app.style(facts["verdict"], fg=_COLORS.get(facts["verdict"]))
    app.line(f"  compared on {samples['n']} rows ({samples['source'] or samples['origin']})")
    app.line(f"  verdict:  {verdict}" + (f"; {facts['claim']}" if facts["claim"] else ""))
    for title, text in (
        ("metric", metric_text(facts["metric"])),
        ("latency", _latency_text(facts["latency"])),
        ("golden", _golden_text(facts["golden"])),
        ("watched", _watch_text(facts.get("watch"))),
    ):
        if text:
            app.line(f"  {title + ':':9} {text}")
    _show_outputs(app, facts)
    _show_worst(app, facts["worst"])


def _latency_text(latency: Mapping[str, Any]) -> str:
    if not latency["source"] or not latency["variant"]:
        return ""
    return f"{latency['source']['p50_ms']:.3g} -> {latency['variant']['p50_ms']:.3g} ms (p50)"


def _golden_text(golden: Mapping[str, Any] | None) -> str:
    if golden is None:
        return ""
    kind = "noise" if golden["origin"].startswith("random") else "real"
    error = "not comparable" if golden["rel_l2"] is None else f"rel. L2 {golden['rel_l2']:.2g}"
    return f"{golden['rows']} rows ({kind}), {error} of at most {golden['limit']:g}"


def _watch_text(watch: Mapping[str, Any] | None) -> str:
    if not watch:
        return ""
    measured = watch.get("measured") or {"calls": 0, "errors": 0}
    return (
        f"{len(watch.get('alarms', ()))} alarms; handles reported {measured['calls']} calls, "
        f"{measured['errors']} failed"
    )


def _show_outputs(app: App, facts: Mapping[str, Any]) -> None:
    from lepton_core.cli._port import number_text

    limits = facts["limits"]
    rows = []
    for name, one in facts["outputs"].items():
        numbers = [number_text(one.get(key)) for key in ("rel_l2", "cosine", "max_abs")]
        unequal = one.get("mismatched_rows")
        note = one.get("problem") or ("" if unequal is None else f"{unequal} rows differ")
        rows.append(Row((name, *numbers, note)))
    app.table(
        (
            Column("output", whole=True),
            Column(f"rel L2 (<= {limits['rel_l2']:g})", right=True),
            Column(f"cosine (>= {limits['cosine']:g})", right=True),
            Column("max abs", right=True),
            Column("note"),
        ),
        rows,
    )


def _show_worst(app: App, worst: list[Mapping[str, Any]]) -> None:
    from lepton_core.cli._port import number_text

    if not worst:
        app.line("no sample differs")
        return
    app.table(
        (
            Column("worst rows", right=True),
            Column("error", right=True),
            Column("loss", right=True),
            Column("decision"),
        ),
        [
            Row(
                (
                    str(one["row"]),
                    number_text(one["error"]),
                    number_text(one["loss"]),
                    "changed" if one.get("changed") else "",
                )
            )
            for one in worst[:_SHOWN_WORST]
        ],
    )


def _show_log(app: App, name: str, place: Path | None, alias: str) -> int:
    from lepton_core.cli.store_commands import open_store
    from lepton_core.migration import history

    with open_store(place) as store:
        store.versions(name)
        steps = history(store, name, alias)
    if app.json:
        app.emit({"ok": True, "name": name, "alias": alias, "steps": list(steps)})
        return 0
    if not steps:
        app.line(f"{name}@{alias} was never migrated")
        return 0
    app.table(
        (
            Column("row", right=True),
            Column("time", whole=True),
            Column("migration", whole=True),
            Column("step", whole=True),
            Column("from"),
            Column("to"),
            Column("why"),
        ),
        [
            Row(
                (
                    str(one["seq"]),
                    one["time"][:19],
                    one["id"],
                    one["step"],
                    f"{one['source']} ({one['source_target']})",
                    f"{one['result'] or one['candidate'] or '-'} ({one['target']})",
                    one["why"],
                )
            )
            for one in steps
        ],
    )
    return 0


__all__ = ["migrate_command"]
