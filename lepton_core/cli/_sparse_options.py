"""Options of pruning and of palettes, which an engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from lepton_core.cli._command import option

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

SPARSE_OPTIONS = ("sparsity", "pattern", "prune", "scope", "palette", "group")


def sparse_options(function: F) -> F:
    """Add the options of :data:`SPARSE_OPTIONS`."""
    for one in reversed(_OPTIONS):
        function = one(function)
    return function


_OPTIONS = (
    option(
        "--sparsity",
        metavar="SHARE",
        help="Share of each weight's values that become 0 (0.5, 50%); with an integer precision, "
        "those are quantized after it.",
    ),
    option("--pattern", metavar="N:M", help="Keep N of M consecutive inputs, such as 2:4."),
    option(
        "--prune",
        type=click.Choice(["magnitude", "wanda"]),
        help="Prune by magnitude, or by magnitude times the size of the input, which needs --data.",
    ),
    option(
        "--scope",
        type=click.Choice(["layer", "row", "global"]),
        help="What --sparsity ranks together; a layer for magnitudes, a row for wanda.",
    ),
    option(
        "--palette",
        type=click.IntRange(1, 8),
        metavar="BITS",
        help="Store weights as places in a table of 2^BITS values.",
    ),
    option(
        "--group",
        type=click.IntRange(1),
        metavar="CHANNELS",
        help="Output channels that share a palette; one palette for each weight if not given.",
    ),
)


def take_sparse_options(given: dict[str, Any]) -> dict[str, Any]:
    """Take them out of what the command line gives, and return those that were given."""
    found = {name: given.pop(name) for name in SPARSE_OPTIONS}
    return {name: value for name, value in found.items() if value is not None}


def default_precision(sparse: dict[str, Any]) -> str:
    """Return the precision that these options ask for by themselves; empty if none do."""
    if "palette" in sparse or "group" in sparse:
        return "palette"
    return "sparse" if sparse else ""


__all__ = ["SPARSE_OPTIONS", "default_precision", "sparse_options", "take_sparse_options"]
