"""Ctrl-C and polite termination: end workers, leave nothing half-written, do not hang."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_KILL_EVERY_SECONDS = 0.05


_PATIENCE_SECONDS = 5.0
"""How long a second Ctrl-C is ignored, so that cleaning up is not cut off."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop: Ctrl-C, SIGTERM, or its terminal is gone.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.exit_code = 128 + number


_stopping = threading.Event()
_since = 0.0


def guarded(work: Callable[[], int]) -> int:
    """Run *work* with handlers for SIGINT, SIGTERM and SIGHUP, in the main thread.

    A signal ends the worker processes, again and again until the work has unwound, because
    threads that have lost their worker would otherwise start the next one.

    Raises:
        Interrupted: One of them came.
    """
    _stopping.clear()
    if threading.current_thread() is not threading.main_thread():
        return work()
    old = {}
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            old[number] = signal.signal(number, _handle)
    try:
        return work()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    global _since  # noqa: PLW0603 - a signal handler has no other place
    if _stopping.is_set() and time.monotonic() - _since < _PATIENCE_SECONDS:
        return
    _since = time.monotonic()
    if not _stopping.is_set():
        _stopping.set()
        threading.Thread(target=_keep_ending, name="lepton-stop", daemon=True).start()
    raise Interrupted(number)


def stopped() -> bool:
    """Tell whether a signal has come since :func:`guarded` began."""
    return _stopping.is_set()


def _keep_ending() -> None:
    while _stopping.is_set():
        end_workers()
        time.sleep(_KILL_EVERY_SECONDS)


def end_workers() -> None:
    """End the worker processes of this process's hooks, if there are any."""
    hooks = sys.modules.get("lepton_core.hooks")
    current = getattr(hooks, "_default", None)
    if current is not None and current.pool is not None:
        with contextlib.suppress(OSError):
            current.pool.close()


def finish(code: int) -> int:
    """Return *code*, or leave at once if a stopped run has left a thread that does not end."""
    was_stopped = _stopping.is_set()
    _stopping.clear()
    if not was_stopped:
        return code
    end_workers()
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    if any(not t.daemon for t in others):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


__all__ = ["Interrupted", "end_workers", "finish", "guarded", "stopped"]
