"""Options of pruning and of palettes, which an engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from lepton_core.cli._command import option

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

SPARSE_OPTIONS = ("sparsity", "pattern", "prune", "scope", "palette", "group")


def sparse_options(heed: str, group: str = "Options") -> Callable[[F], F]:
    """Return what adds the options of :data:`SPARSE_OPTIONS` under a heading.

    Args:
        heed: What a share of zeros means to the precisions of the command, for the help.
        group: The heading.
    """

    def add(function: F) -> F:
        for name, attributes in reversed(_OPTIONS):
            said = {**attributes, "help": attributes["help"].replace("HEED", heed)}
            function = option(name, group=group, **said)(function)
        return function

    return add


_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--sparsity",
        {
            "metavar": "SHARE",
            "help": "Share of each weight's values that become 0 (0.5, 50%); HEED. `auto`: with "
            "sparse, as much as --max-drop bears. With mixed, shares to choose from for each "
            "weight (30%,50%).",
        },
    ),
    (
        "--pattern",
        {"metavar": "N:M", "help": "Keep N of M consecutive inputs, such as 2:4."},
    ),
    (
        "--prune",
        {
            "type": click.Choice(["magnitude", "wanda"]),
            "help": "Prune by magnitude, or by magnitude times the size of the input, which needs "
            "--data.",
        },
    ),
    (
        "--scope",
        {
            "type": click.Choice(["layer", "row", "global"]),
            "help": "What --sparsity ranks together; a layer for magnitudes, a row for wanda.",
        },
    ),
    (
        "--palette",
        {
            "metavar": "BITS",
            "help": "Store weights as places in a table of 2^BITS values, 1 to 8 bits. With mixed, "
            "bits to choose from for each weight (4,2).",
        },
    ),
    (
        "--group",
        {
            "type": click.IntRange(1),
            "metavar": "CHANNELS",
            "help": "Output channels that share a palette; one palette for each weight if not "
            "given.",
        },
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
