"""Reporters: progress as bars on a terminal, as sparse lines over a pipe, or not at all.

All of them may be used from several threads at once.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Protocol

from lepton_core.context import Reporter, SilentReporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import TextIO

    from rich.console import RenderableType
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from lepton_core.context import ProgressTask

_WORTH_A_LINE_SECONDS = 1.0
"""A step that took this long leaves a line behind on a terminal."""
_LINE_EVERY_SECONDS = 5.0
"""How often a long step says over a pipe how far it is."""


class ClosableReporter(Reporter, Protocol):
    """A reporter that owns a display; a ``with`` block takes it down at the end."""

    def close(self) -> None:
        """Take the display down; calling it again does nothing."""

    def __enter__(self) -> ClosableReporter:
        """Return the reporter."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the reporter."""


class _Closable:
    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> ClosableReporter:
        return self  # type: ignore[return-value]  # the subclasses are reporters

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


class QuietReporter(_Closable, SilentReporter):
    """Reports nothing."""


class WarningReporter(_Closable, SilentReporter):
    """Reports nothing but warnings.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def warn(self, text: str) -> None:
        """Write *text*."""
        with self._lock:
            self._stream.write(f"warning: {text}\n")
            self._stream.flush()


class PlainReporter(_Closable):
    """Writes a line when a step starts, ends, or has gone on for long.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a step."""
        self.note(description)
        return _PlainTask(self, description, total)

    def note(self, text: str) -> None:
        """Write *text*."""
        with self._lock:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def warn(self, text: str) -> None:
        """Write *text* as a warning."""
        self.note(f"warning: {text}")


class _PlainTask:
    def __init__(self, reporter: PlainReporter, description: str, total: float | None) -> None:
        self._reporter = reporter
        self._description = description
        self._total = total
        self._done = 0.0
        self._began = self._said = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: float = 1.0) -> None:
        """Say how far it is, if it has been silent for long."""
        with self._lock:
            self._done += amount
            now = time.monotonic()
            if now - self._said < _LINE_EVERY_SECONDS:
                return
            self._said = now
            done = self._done
        of_total = f" of {self._total:g}" if self._total is not None else ""
        self._reporter.note(f"{self._description}: {done:g}{of_total}")

    def finish(self, note: str = "") -> None:
        """Say how long it took."""
        seconds = time.monotonic() - self._began
        self._reporter.note(f"{self._description}: {note or 'done'} ({seconds:.1f} s)")


class RichReporter(_Closable):
    """Draws bars with elapsed and remaining time; finished ones make room.

    The display appears with the first step and is taken down by :meth:`close`.

    Args:
        stream: A terminal.
        color: Force or forbid colours; ``None`` leaves it to the terminal and ``NO_COLOR``.
    """

    def __init__(self, stream: TextIO, *, color: bool | None = None) -> None:
        self._stream = stream
        self._color = color
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._boards: list[Table] = []
        self._whole: TaskID | None = None
        self._tick = "✓" if _can_encode(stream, "✓") else "done"

    def _display(self) -> Progress:
        with self._lock:
            if self._progress is None:
                self._progress = _make_progress(self._stream, self._color, self._boards)
                self._progress.start()
            return self._progress

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a bar."""
        display = self._display()
        return _RichTask(self, display.add_task(description, total=total), description)

    def board(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table above the bars; see :func:`show_board`."""
        made = [_make_table(title, columns, rows)] if rows else []
        display = self._display()
        with self._lock:
            self._boards[:] = made
        display.refresh()

    def remaining(self, seconds: float | None, share: float = 0.0, *, whole: bool = True) -> None:
        """Show how much of the whole run is left; see :func:`show_remaining`."""
        with self._lock:
            if seconds is None and (self._progress is None or self._whole is None):
                return
        display = self._display()
        with self._lock:
            number, self._whole = self._whole, None
            if seconds is None:
                if number is not None:
                    display.remove_task(number)
                return
            about = "whole run" if whole else "whole run, as far as it is known"
            done, ends = int(100 * share), time.monotonic() + seconds
            if number is None:
                self._whole = display.add_task(about, total=100, completed=done, ends=ends)
            else:
                display.update(number, description=about, completed=done, ends=ends)
                self._whole = number

    def note(self, text: str) -> None:
        """Print *text* above the bars."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Print *text* above the bars as a warning."""
        self._print(f"warning: {text}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        self._display().console.print(text, style=style, markup=False, highlight=False)

    def _advance(self, number: TaskID, amount: float) -> None:
        self._display().advance(number, amount)

    def _finish(self, number: TaskID, text: str, seconds: float) -> None:
        display = self._display()
        with self._lock:
            if number not in display.task_ids:
                return
            display.remove_task(number)
        if seconds >= _WORTH_A_LINE_SECONDS:
            self._print(f"{self._tick} {text} ({seconds:.1f} s)", style="dim")

    def close(self) -> None:
        """Take the bars down."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress = self._whole = None


class _RichTask:
    def __init__(self, reporter: RichReporter, number: TaskID, description: str) -> None:
        self._reporter = reporter
        self._number = number
        self._description = description
        self._began = time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar."""
        self._reporter._advance(self._number, amount)

    def finish(self, note: str = "") -> None:
        """Remove the bar; a long step leaves a line."""
        text = f"{self._description}: {note}" if note else self._description
        self._reporter._finish(self._number, text, time.monotonic() - self._began)


def show_board(
    reporter: Reporter, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Show a table that stands above the bars and replaces the one before.

    Only a terminal shows it; over a pipe, in JSON and in programs nothing is said.

    Args:
        reporter: Where progress goes; reporters that know no tables are left alone.
        title: What it is, in a few words.
        columns: Headings.
        rows: One text per column each; none at all take the table down.
    """
    board = getattr(reporter, "board", None)
    if board is not None:
        board(title, [str(c) for c in columns], [[str(c) for c in row] for row in rows])


def show_remaining(
    reporter: Reporter, seconds: float | None, share: float = 0.0, *, whole: bool = True
) -> None:
    """Show how much time a whole run still takes, in a bar of its own.

    Only a terminal shows it.

    Args:
        reporter: Where progress goes; reporters that know nothing of it are left alone.
        seconds: What is left; ``None`` takes the bar down.
        share: Share of the run that is over, 0 to 1.
        whole: Whether *seconds* covers all that is to come.
    """
    remaining = getattr(reporter, "remaining", None)
    if remaining is not None:
        remaining(seconds, share, whole=whole)


def _make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _make_progress(stream: TextIO, color: bool | None, boards: list[Table]) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time that a bar's own pace leaves, or that of the whole run if it was told."""

        def render(self, task: Task) -> Text:
            """Return it as ``0:01:30``, a moment ago or told."""
            if "ends" not in task.fields:
                return super().render(task)
            left = max(0, round(task.fields["ends"] - time.monotonic()))
            minutes, seconds = divmod(left, 60)
            hours, minutes = divmod(minutes, 60)
            return Text(f"{hours:d}:{minutes:02d}:{seconds:02d}", style="progress.remaining")

    class Display(Progress):
        """Bars below a table, if there is one."""

        def get_renderables(self) -> Iterable[RenderableType]:
            """Yield the table, then the bars."""
            yield from boards
            yield from super().get_renderables()

    plain = color is False or (color is None and "NO_COLOR" in os.environ)
    spinner = "dots" if _can_encode(stream, "⠋") else "line"
    return Display(
        SpinnerColumn(spinner),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Left(),
        console=Console(file=stream, no_color=plain),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def reporter_for(
    stream: TextIO,
    *,
    quiet: bool = False,
    verbose: bool = False,
    json: bool = False,
    color: bool | None = None,
) -> ClosableReporter:
    """Choose a reporter.

    Args:
        stream: Where it writes; bars are drawn if that is a terminal that can move its cursor.
        quiet: Report nothing.
        verbose: Write lines where bars cannot be drawn.
        json: A program reads the result: without a terminal and ``verbose``, be silent, as the
            result holds the warnings too.
        color: Force or forbid colours.
    """
    if quiet:
        return QuietReporter()
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return RichReporter(stream, color=color)
    if verbose:
        return PlainReporter(stream)
    return QuietReporter() if json else WarningReporter(stream)


__all__ = [
    "ClosableReporter",
    "PlainReporter",
    "QuietReporter",
    "RichReporter",
    "WarningReporter",
    "reporter_for",
    "show_board",
    "show_remaining",
]
