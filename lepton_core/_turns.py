"""Conversions that come one at a time in a process."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.context import Context

_conversions = threading.RLock()
"""Held by conversions that are declared isolated and have no worker, as in a worker of another
plugin: their packages keep state of the whole process (streams, tracers), and count on being
called one at a time, as a worker's pool does."""


@contextlib.contextmanager
def one_at_a_time(context: Context) -> Iterator[None]:
    """Hold :data:`_conversions`; a job that is cancelled while it waits stops."""
    from lepton_core.workers.process import POLL_SECONDS

    while not _conversions.acquire(timeout=POLL_SECONDS):
        context.checkpoint()
    try:
        yield
    finally:
        _conversions.release()


__all__ = ["one_at_a_time"]
