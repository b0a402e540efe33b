"""Errors as the user sees them: a code, one sentence, why, and what to do."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from lepton_core.errors import (
    LeptonError,
    OperationCancelledError,
    StorageError,
    UsageError,
    WorkerError,
)

if TYPE_CHECKING:
    from lepton_core.cli._app import App

_CAUSE_LINES = 3
EXIT_BUG = 70


@dataclass(frozen=True, slots=True)
class Failure:
    """What to show of an error.

    Attributes:
        code: Stable code.
        message: One sentence.
        cause: Lines that say why.
        remedy: What to do.
        exit_code: Exit code of the program.
        data: The same for programs.
        traceback: The traceback, if it was asked for.
    """

    code: str
    message: str
    cause: tuple[str, ...]
    remedy: str
    exit_code: int
    data: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""

    def text(self, app: App) -> str:
        """Return one to five lines."""
        head = app.style(f"error[{self.code}]", app.stderr, fg="red", bold=True)
        lines = [f"{head}: {self.message}"]
        lines += [f"  {'cause: ' if n == 0 else '  '}{line}" for n, line in enumerate(self.cause)]
        if self.remedy:
            lines.append(f"  hint: {self.remedy}")
        return "\n".join(lines)


def describe(error: BaseException, app: App) -> Failure:
    """Say what an exception means to the user; raises none itself."""
    known = _as_lepton(error)
    text = "".join(traceback.format_exception(error)) if app.debug else ""
    return Failure(
        known.code,
        _one_line(known.message),
        _cause(known, whole=app.debug),
        _one_line(known.remedy or ""),
        EXIT_BUG if known.code == "LPT-BUG-001" else _exit_code(error, known),
        known.to_dict(),
        text,
    )


def _exit_code(error: BaseException, known: LeptonError) -> int:
    own = getattr(error, "exit_code", None) if isinstance(error, KeyboardInterrupt) else None
    return known.exit_code if own is None else int(own)


def _as_lepton(error: BaseException) -> LeptonError:
    if isinstance(error, LeptonError):
        return error
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return OperationCancelledError("LPT-STOP-001", "Stopped; nothing half-written is left")
    if isinstance(error, OSError):
        found = _disk(error)
        if found is not None:
            return found
    if isinstance(error, MemoryError):
        return LeptonError(
            "LPT-CLI-001",
            "This machine ran out of memory",
            cause=str(error) or None,
            remedy="Use a smaller model or fewer samples, or a machine with more memory.",
        )
    return _bug(error)


def _disk(error: OSError) -> StorageError | None:
    from lepton_core.files import disk_errors

    try:
        with disk_errors(str(error.filename or "the output")):
            raise error
    except StorageError as found:
        return found
    except OSError:
        return None


def _bug(error: BaseException) -> LeptonError:
    from lepton_core._version import __version__

    frame = traceback.extract_tb(error.__traceback__)
    where = f" at {frame[-1].filename}:{frame[-1].lineno}" if frame else ""
    return LeptonError(
        "LPT-BUG-001",
        f"lepton {__version__} failed in a way that nobody foresaw",
        cause=f"{type(error).__name__}: {error}{where}",
        remedy="This is a bug. Run the command again with --debug, and report it with the "
        "traceback and what `lepton doctor --json` says.",
        details={"exception": type(error).__name__},
    )


def _usage(error: click.ClickException) -> UsageError:
    ctx = getattr(error, "ctx", None)
    if (
        ctx is not None
        and ctx.parent
        and ctx.info_name == getattr(ctx.parent.command, "default", None)
    ):
        ctx = ctx.parent  # the command that is meant where none is named has no help of its own
    path = ctx.command_path if ctx is not None else "lepton"
    see = f"`{path} --help` shows how to use it."
    possibilities = getattr(error, "possibilities", None)
    if isinstance(error, click.NoSuchOption):
        near = f"Did you mean {' or '.join(possibilities)}? " if possibilities else ""
        return UsageError(
            "LPT-USE-103",
            f"`{path}` has no option {error.option_name}",
            remedy=f"{near}{see}",
            details={"option": error.option_name, "nearest": list(possibilities or ())},
        )
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is the whole help page
        return UsageError("LPT-USE-101", f"`{path}` needs a command", remedy=see)
    return UsageError("LPT-USE-101", error.format_message(), remedy=see)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cause(error: LeptonError, *, whole: bool) -> tuple[str, ...]:
    """Return the cause in few lines: a worker's last words, else the beginning."""
    lines = [line.strip() for line in (error.cause or "").splitlines() if line.strip()]
    if whole or len(lines) <= _CAUSE_LINES:
        return tuple(lines)
    left = len(lines) - _CAUSE_LINES + 1
    more = f"… {left} more lines, shown with --debug"
    if isinstance(error, WorkerError):
        return (more, *lines[-_CAUSE_LINES + 1 :])
    return (*lines[: _CAUSE_LINES - 1], more)


__all__ = ["EXIT_BUG", "Failure", "describe"]
