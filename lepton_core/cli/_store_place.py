"""Which store a command means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import option

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_core.store import Store


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--store``."""
    return option(
        "--store",
        "place",
        metavar="DIR",
        envvar="LEPTON_STORE",
        show_default=False,
        type=click.Path(path_type=Path, file_okay=False),
        help="The store (LEPTON_STORE, or the user's data folder).",
    )(function)


def open_store(place: Path | None, *, create: bool = False) -> Store:
    """Open the store that the options name."""
    from lepton_core.store import Store

    return Store(place, create=create)


__all__ = ["open_store", "store_option"]
