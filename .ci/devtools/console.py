"""Messages, expected failures and running commands."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class SetupError(Exception):
    """An expected failure: what happened and what to do, shown without a traceback."""


def say(text: str) -> None:
    """Prints one line at once, also into a pipe."""
    print(text, flush=True)


class Step:
    """Prints the name of a step and, when it ends well, the seconds it took."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = 0.0

    def __enter__(self) -> Step:
        self._began = time.monotonic()
        say(f"==> {self._title}")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            say(f"    done in {time.monotonic() - self._began:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Runs a command with its output shown, without stdin, and returns its exit status."""
    done = subprocess.run(
        [str(part) for part in command], env=env, cwd=cwd, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode


def capture(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> tuple[int, str]:
    """Runs a command quietly; returns its exit status and its output (127 when it cannot start)."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout


def fail_cleanly(main: object) -> None:
    """Runs ``main``; an expected failure or Ctrl-C ends with a message instead of a traceback."""
    try:
        main()  # type: ignore[operator]
    except SetupError as failure:
        print(f"\nerror: {failure}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to continue", file=sys.stderr, flush=True)
        sys.exit(130)
