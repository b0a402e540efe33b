"""Options of commands that measure many variants: where measurements are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lepton_core.cli._command import option

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

F = TypeVar("F", bound="Callable[..., Any]")

NONE = "none"


def cache_option(function: F) -> F:
    """Add ``--cache``."""
    return option(
        "--cache",
        metavar="DIR",
        show_default=False,
        callback=_place,
        help="Where measurements are kept, so that an interrupted search goes on and a repeated "
        "one is quick; the user's cache folder by default, `none` keeps none. No samples are kept.",
    )(function)


def _place(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    if value == NONE:
        return None
    if value is not None:
        return Path(value)
    import platformdirs

    return Path(platformdirs.user_cache_dir("lepton")) / "search"


def search_options(cache: Path | None, slices: str | None) -> dict[str, Any]:
    """Return the engine's options for what the command line gives."""
    found = {"cache": cache and str(cache.absolute()), "slices": slices}
    return {name: value for name, value in found.items() if value is not None}


__all__ = ["cache_option", "search_options"]
