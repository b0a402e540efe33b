"""``lepton store …``: what is deployed, what moved when, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import Command, command, option
from lepton_core.cli._page import page_command
from lepton_core.cli._store_place import open_store, store_option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import DURATION, pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lepton_core.cli._app import App
    from lepton_core.store import AliasState, LedgerRow, Version

EXIT_DAMAGED = 5
_DETAILS = 110
"""Characters of a ledger row's details that a table shows: a move of an alias fits."""
_SHOWN_DAMAGE = 20


def _why(function: Callable[..., Any]) -> Callable[..., Any]:
    return option("--why", default="", show_default=False, help="Reason, for the ledger.")(function)


def _alias(function: Callable[..., Any]) -> Callable[..., Any]:
    return option("--alias", default="production", help="The alias.")(function)


@command("list", examples="lepton store list\nlepton store list --json")
@store_option
def list_command(app: App, *, place: Path | None) -> int:
    """List deployments and where their aliases point."""
    with open_store(place) as store:
        found = {name: (store.versions(name), store.aliases(name)) for name in store.names()}
        path = str(store.path)
    if app.json:
        rows = [
            {
                "name": name,
                "versions": [v.id for v in versions],
                "aliases": [a.to_dict() for a in aliases],
            }
            for name, (versions, aliases) in found.items()
        ]
        app.emit({"ok": True, "store": path, "deployments": rows})
        return 0
    app.table(
        (
            Column("name", whole=True),
            Column("alias", whole=True),
            Column("version", whole=True),
            Column("target"),
            Column("precision"),
            Column("versions", right=True),
        ),
        [row for name, (vs, aliases) in found.items() for row in _list_rows(name, vs, aliases)],
    )
    return 0


def _list_rows(
    name: str, versions: tuple[Version, ...], aliases: tuple[AliasState, ...]
) -> list[Row]:
    known = {v.id: v for v in versions}
    if not aliases:
        return [Row((name, "", "", "", "", str(len(versions))))]
    return [
        Row(
            (
                name,
                a.alias,
                a.version,
                known[a.version].target,
                known[a.version].precision,
                str(len(versions)),
            )
        )
        for a in aliases
    ]


@command("show", examples="lepton store show digits\nlepton store show digits@production --json")
@click.argument("reference")
@store_option
def show_command(app: App, reference: str, *, place: Path | None) -> int:
    """Show the versions of a deployment, or one version in full."""
    from lepton_core.codec import to_data

    with open_store(place) as store:
        if "@" in reference:
            found = store.resolve(reference)
            passport = store.passport(found.version)
            data = {**to_data(found.version), "passport": passport}
            if app.json:
                app.emit({"ok": True, "name": found.name, "version": data})
                return 0
            _show_version(app, found.version, passport)
            return 0
        versions = store.versions(reference)
        points = store.aliases(reference)
        settings = {k: to_data(s) for k, s in store.settings(reference).items()}
    if app.json:
        app.emit(
            {
                "ok": True,
                "name": reference,
                "versions": [to_data(v) for v in versions],
                "aliases": [a.to_dict() for a in points],
                "settings": settings,
            }
        )
        return 0
    columns = ("version", "aliases", "target", "precision", "bytes")
    app.table(
        [Column(c, right=c == "bytes", whole=c == "version") for c in columns],
        [
            Row(
                (
                    v.id,
                    ", ".join(a.alias for a in points if a.version == v.id),
                    v.target,
                    v.precision,
                    str(v.size_bytes),
                )
            )
            for v in versions
        ],
    )
    return 0


def _show_version(app: App, version: Version, passport: dict[str, Any] | None) -> None:
    lines = [
        ("version", version.id),
        ("manifest", version.manifest),
        ("target", version.target),
        ("precision", version.precision or "not known"),
        ("signature", str(version.model.signature or "not known")),
        ("bytes", str(version.size_bytes)),
        ("verdict", passport["verdict"]["verdict"] if passport else "no passport"),
    ]
    lines += [("lineage", f"{s.step}, by {s.owner}") for s in version.model.lineage]
    lines += [("file", f"{f.path}  {f.size}  {f.digest}") for f in version.files]
    for name, text in lines:
        app.line(f"{name:10} {text}")


@command(
    "promote",
    examples="""
    lepton store promote digits v3f2a9c01
    lepton store promote digits v3f2a9c01 --alias beta --why "passed the night"
    """,
)
@click.argument("name")
@click.argument("version")
@_alias
@option(
    "--expect",
    type=click.IntRange(min=0),
    metavar="GENERATION",
    show_default=False,
    help="Only if the alias was moved so many times.",
)
@_why
@store_option
def promote_command(app: App, name: str, version: str, *, place: Path | None, **given: Any) -> int:  # noqa: ANN401
    """Point an alias of NAME at VERSION; running deployments follow."""
    with open_store(place) as store:
        state = store.promote(name, version, **given)
    return _show_state(app, state)


@command(
    "rollback",
    examples="""
    lepton store rollback digits
    lepton store rollback digits --to v3f2a9c01 --why "p99 doubled"
    """,
)
@click.argument("name")
@_alias
@option("--to", metavar="VERSION", show_default=False, help="Version of its history to go to.")
@_why
@store_option
def rollback_command(app: App, name: str, *, place: Path | None, **given: Any) -> int:  # noqa: ANN401
    """Point an alias of NAME at the version before; again goes further back."""
    with open_store(place) as store:
        state = store.rollback(name, **given)
    return _show_state(app, state)


def _show_state(app: App, state: AliasState) -> int:
    if app.json:
        app.emit({"ok": True, **state.to_dict()})
    else:
        where = f"{state.name}@{state.alias}"
        app.line(f"{where} points to {state.version} (generation {state.generation})")
    return 0


@command("history", examples="lepton store history digits --alias production")
@click.argument("name")
@_alias
@store_option
def history_command(app: App, name: str, *, alias: str, place: Path | None) -> int:
    """Show where an alias of NAME has pointed."""
    with open_store(place) as store:
        rows = store.history(name, alias)
    return _show_rows(app, rows)


@command("log", examples="lepton store log\nlepton store log --name digits --kind setting. -n 20")
@option("--name", show_default=False, help="Only about this deployment.")
@option("--kind", show_default=False, help="Only this kind; `alias.` means all that begin so.")
@option("-n", "limit", type=click.IntRange(min=1), default=50, help="The last so many rows.")
@store_option
def log_command(app: App, *, place: Path | None, **given: Any) -> int:  # noqa: ANN401
    """Show the ledger: every change, who made it and why."""
    with open_store(place) as store:
        rows = store.ledger(**given)
    return _show_rows(app, rows)


def _show_rows(app: App, rows: tuple[LedgerRow, ...]) -> int:
    if app.json:
        app.emit({"ok": True, "rows": [row.to_dict() for row in rows]})
        return 0
    details = [_details(row) for row in rows]
    names = ("row", "time", "what", "name", "who", "details", "why")
    app.table(
        [Column(n, right=n == "row", whole=n in ("row", "time", "what")) for n in names],
        [
            Row(
                (
                    str(row.seq),
                    row.time[:19],
                    row.kind,
                    row.name,
                    row.actor,
                    shortened(said),
                    row.why,
                )
            )
            for row, said in zip(rows, details, strict=True)
        ],
    )
    if any(len(said) > _DETAILS for said in details):
        app.note(f"Details of more than {_DETAILS} characters end in …; --json has all of them.")
    return 0


def _details(row: LedgerRow) -> str:
    """Return what a row records in one line; nested values, which may be long, come last."""
    hidden = ("back", "manifest")
    shown = [(k, v) for k, v in row.details.items() if v is not None and k not in hidden]
    shown.sort(key=lambda pair: isinstance(pair[1], dict | list))
    return " ".join(", ".join(f"{k} {v}" for k, v in shown).split())


def shortened(text: str, limit: int = _DETAILS) -> str:
    """Return a text of at most so many characters; one that was longer ends in ``…``."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 2].rstrip(' ,')} …"


@command("verify", examples="lepton store verify\nlepton store verify --json")
@store_option
def verify_command(app: App, *, place: Path | None) -> int:
    """Check every file, manifest and ledger row.

    Exit code: 0 everything is as it was stored; 5 something is damaged.
    """
    with open_store(place) as store:
        report = store.verify()
    if app.json:
        app.emit(report.to_dict())
        return 0 if report.ok else EXIT_DAMAGED
    for damage in report.damage[:_SHOWN_DAMAGE]:
        app.line(f"{app.style('damaged', fg='red')} {damage.what} {damage.place}: {damage.reason}")
    if len(report.damage) > _SHOWN_DAMAGE:
        app.line(f"and {len(report.damage) - _SHOWN_DAMAGE} more; --json shows all")
    app.line(
        f"{report.versions} versions, {report.files} files, {report.rows} ledger rows: "
        + ("as they were stored" if report.ok else f"{len(report.damage)} damaged")
    )
    return 0 if report.ok else EXIT_DAMAGED


@command("gc", examples="lepton store gc --dry-run\nlepton store gc --grace 24h --keep 3")
@option("--grace", type=DURATION, default="168h", help="Age below which nothing goes.")
@option("--keep", type=click.IntRange(min=0), default=5, help="Earlier versions per alias.")
@option("--dry-run", is_flag=True, show_default=False, help="Only say what would go.")
@store_option
def gc_command(app: App, *, place: Path | None, **given: Any) -> int:  # noqa: ANN401
    """Remove versions and files that nothing leads to any more."""
    with open_store(place) as store:
        report = store.gc(**given)
    if app.json:
        app.emit({"ok": True, **report.to_dict()})
        return 0
    verb = "would remove" if report.dry_run else "removed"
    app.line(
        f"{verb} {len(report.versions)} versions, {report.files} files ({report.bytes} bytes), "
        f"{report.leftovers} leftovers"
    )
    return 0


@command(
    "set",
    examples="""
    lepton store set digits open --value threads=2
    lepton store set digits open --clear
    """,
)
@click.argument("name")
@click.argument("key")
@option("--value", "values", multiple=True, metavar="KEY=VALUE", help="Part; may be repeated.")
@option("--clear", is_flag=True, show_default=False, help="Take the setting away.")
@_why
@store_option
def set_command(
    app: App,
    name: str,
    key: str,
    *,
    values: tuple[str, ...],
    clear: bool,
    why: str,
    place: Path | None,
) -> int:
    """Change a setting of NAME; running deployments follow."""
    from lepton_core.errors import UsageError

    if clear == bool(values):
        raise UsageError(
            "LPT-STORE-019",
            "A setting is given parts or cleared, one of the two",
            remedy="Write --value KEY=VALUE, or --clear.",
        )
    from lepton_core.deployment import check_setting

    value = None if clear else pairs(values, "--value")
    if value is not None:
        check_setting(key, value)
    with open_store(place) as store:
        setting = store.set_setting(name, key, value, why=why)
    if app.json:
        from lepton_core.codec import to_data

        app.emit({"ok": True, **to_data(setting)})
    else:
        app.line(f"{name}: {key} is now {setting.value} (generation {setting.generation})")
    return 0


class StoreGroup(click.Group):
    """``lepton store``; its commands stand in the order of the help page."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order."""
        return list(self.commands)


store_command = StoreGroup(
    "store",
    help="Look after the store: versions, aliases, ledger, files.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: tuple[Command, ...] = (
    list_command,
    show_command,
    promote_command,
    rollback_command,
    history_command,
    log_command,
    set_command,
    verify_command,
    gc_command,
    page_command,
)
for _one in _COMMANDS:
    store_command.add_command(_one)

__all__ = ["open_store", "promote_command", "rollback_command", "store_command", "store_option"]
