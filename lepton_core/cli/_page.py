"""``lepton store page``: a deployment as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._store_place import open_store, store_option

if TYPE_CHECKING:
    from lepton_core.cli._app import App


@command(
    "page",
    examples="""
    lepton store page digits
    lepton store page digits@beta --out digits.html
    """,
)
@click.argument("reference")
@option(
    "--out",
    metavar="FILE",
    show_default=False,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it; NAME.html by default.",
)
@store_option
def page_command(app: App, reference: str, *, out: Path | None, place: Path | None) -> int:
    """Write a page about NAME: latency and calls over time, and every change with its effect.

    Times are there if live handles measure: open them with flush_seconds.
    """
    from lepton_core.files import write_named
    from lepton_core.report.deployment import render_deployment

    with open_store(place) as store:
        html = render_deployment(store, reference)
    where = out or Path(f"{reference.partition('@')[0]}.html")
    write_named(where, html)
    if app.json:
        app.emit({"ok": True, "page": str(where.absolute())})
    else:
        app.line(f"page: {where.absolute()}")
    return 0


__all__ = ["page_command"]
