"""Click classes with grouped options and examples, and the options that every command has."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lepton_core.cli._app import App

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

OUTPUT = "Output"
_COMMON = ("as_json", "quiet", "verbose", "debug", "color")


class Option(click.Option):
    """An option that stands under a heading of the help page."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:  # noqa: ANN401
        kwargs.setdefault("show_default", True)
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """A command whose help shows examples, and options under headings.

    Attributes:
        examples: Command lines that work, one per line; lines that start with ``#`` explain.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:  # noqa: ANN401
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self.examples = tuple(line.strip() for line in examples.strip().splitlines())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group, in the order of first use; the common ones last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue  # the text above the options explains them
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = getattr(parameter, "group", OUTPUT)
                groups.setdefault(group, []).append(record)
        last = groups.pop(OUTPUT, None)
        if last:
            groups[OUTPUT] = last
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, without wrapping."""
        if not self.examples:
            return
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        for line in self.examples:
            formatter.write(f"  {line}\n" if line.startswith("#") else f"  $ {line}\n")


def command(name: str, *, examples: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a :class:`Command` that gets an :class:`.App` and its own options."""

    def decorate(function: Callable[..., Any]) -> Command:
        made: Command = click.command(name, cls=Command, examples=examples)(common(function))
        return made

    return decorate


def option(*names: str, group: str = "Options", **attributes: Any) -> Callable[[F], F]:  # noqa: ANN401
    """Return ``click.option`` with a heading and a shown default."""
    return click.option(*names, cls=Option, group=group, **attributes)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has, and pass them on as one :class:`.App`."""

    @click.pass_context
    @functools.wraps(function)
    def wrapper(ctx: click.Context, /, **options: Any) -> Any:  # noqa: ANN401
        app = ctx.ensure_object(App)
        given = {name: options.pop(name) for name in _COMMON}
        app.merge(json=given.pop("as_json"), **given)
        return function(app, **options)

    return common_options(wrapper)


def common_options(function: F) -> F:
    """Add ``--json``, ``-q``, ``-v``, ``--debug`` and ``--color``."""
    for add in (
        option(
            "--color/--no-color",
            group=OUTPUT,
            default=None,
            show_default=False,
            help="Force or forbid colours (NO_COLOR is honoured).",
        ),
        option(
            "--debug",
            group=OUTPUT,
            is_flag=True,
            show_default=False,
            help="Show tracebacks of errors, also of worker processes (or LEPTON_DEBUG=1).",
        ),
        option(
            "-v",
            "--verbose",
            group=OUTPUT,
            is_flag=True,
            show_default=False,
            help="Say more; progress as lines when piped.",
        ),
        option(
            "-q",
            "--quiet",
            group=OUTPUT,
            is_flag=True,
            show_default=False,
            help="Results and errors only.",
        ),
        option(
            "--json",
            "as_json",
            group=OUTPUT,
            is_flag=True,
            show_default=False,
            help="Print exactly one JSON object on standard output.",
        ),
    ):
        function = add(function)
    return function


__all__ = ["OUTPUT", "Command", "Option", "command", "common", "common_options", "option"]
