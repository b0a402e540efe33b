"""What every command shares: where text goes, how much of it, and in which form."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from lepton_core.cli._table import Column, Row
    from lepton_core.dispatch import Hooks
    from lepton_core.progress import ClosableReporter
    from lepton_core.registry import Registry

SCHEMA = 1


@dataclass(slots=True)
class App:
    """Output of one run of the program.

    Results go to standard output, everything else to standard error.

    Attributes:
        json: Print one JSON object instead of text.
        quiet: Print results and errors only.
        verbose: Say more, also when piped.
        debug: Show tracebacks.
        color: Force or forbid colour; ``None`` looks at the stream and at ``NO_COLOR``.
        out: Where results go.
        err: Where everything else goes.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    color: bool | None = None
    out: TextIO | None = None
    err: TextIO | None = None

    def merge(
        self, *, json: bool, quiet: bool, verbose: bool, debug: bool, color: bool | None
    ) -> None:
        """Add the options of a command to those given before its name."""
        self.json |= json
        self.quiet |= quiet
        self.verbose |= verbose
        self.debug |= debug
        self.color = self.color if color is None else color

    @property
    def stdout(self) -> TextIO:
        """The stream for results."""
        return self.out or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """The stream for everything else."""
        return self.err or sys.stderr

    # --- results ------------------------------------------------------------------------------

    def emit(self, data: dict[str, Any]) -> None:
        """Print the one JSON object of a run; ``schema`` is put first if it is missing."""
        whole = data if "schema" in data else {"schema": SCHEMA, **data}
        text = json.dumps(whole, ensure_ascii=False, allow_nan=False, default=str)
        self.stdout.write(f"{text}\n")
        self.stdout.flush()

    def line(self, text: str = "") -> None:
        """Print one line of a result."""
        import click

        click.echo(text, file=self.stdout, color=self.colored(self.stdout))

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Print a table: drawn on a terminal, aligned columns otherwise."""
        from lepton_core.cli._table import draw

        draw(
            self.stdout,
            columns,
            rows,
            terminal=is_terminal(self.stdout),
            color=self.colored(self.stdout),
        )

    # --- remarks ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet and not (self.json and not is_terminal(self.stderr)):
            self.error_text(text)

    def warn(self, text: str) -> None:
        """Say something that the user should act on."""
        if not self.quiet:
            self.error_text(f"{self.style('warning', self.stderr, fg='yellow', bold=True)}: {text}")

    def error_text(self, text: str) -> None:
        """Write to standard error, whatever the level of chatter."""
        import click

        click.echo(text, file=self.stderr, color=self.colored(self.stderr))

    # --- looks --------------------------------------------------------------------------------

    def style(self, text: str, stream: TextIO | None = None, **style: Any) -> str:  # noqa: ANN401
        """Return *text* with colours if *stream* (standard output by default) takes them."""
        import click

        return click.style(text, **style) if self.colored(stream or self.stdout) else text

    def colored(self, stream: TextIO) -> bool:
        """Tell whether *stream* takes colours."""
        if self.color is not None:
            return self.color
        return is_terminal(stream) and "NO_COLOR" not in os.environ

    # --- work ---------------------------------------------------------------------------------

    def hooks(self) -> Hooks:
        """Return the process's hooks."""
        from lepton_core.hooks import default

        return default()

    def registry(self) -> Registry:
        """Return the process's registry; a new one, without what calling hooks takes, is cheap."""
        hooks = sys.modules.get("lepton_core.hooks")
        current: Hooks | None = getattr(hooks, "_default", None)
        if current is not None:
            return current.registry
        from lepton_core.registry import Registry

        return Registry()

    def reporter(self) -> ClosableReporter:
        """Return where progress goes: bars on a terminal, sparse lines with -v, else nothing."""
        from lepton_core.progress import reporter_for

        return reporter_for(
            self.stderr,
            quiet=self.quiet,
            verbose=self.verbose,
            json=self.json,
            color=self.color,
        )


def is_terminal(stream: TextIO) -> bool:
    """Tell whether *stream* is a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


__all__ = ["SCHEMA", "App", "is_terminal"]
