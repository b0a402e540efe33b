"""Who runs a migration, and whether that process still lives."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass

LEASE = 900.0
"""Seconds after its last step for which a process on another machine counts as alive."""

_TOLERANCE = 1.0
_running: set[str] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: Its machine.
        pid: Its number there.
        started: When it started, seconds since the epoch: numbers are used again.
        seen: When it wrote this, seconds since the epoch.
    """

    host: str
    pid: int
    started: float
    seen: float

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        import psutil

        started = psutil.Process().create_time()
        return cls(socket.gethostname(), os.getpid(), round(started, 2), round(time.time(), 3))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def lives(self, migration: str, until: float) -> bool:
        """Tell whether the process that wrote this may still be at work on a migration.

        A process of this machine is looked up; one of another machine is trusted for
        :data:`LEASE` seconds after its last step, and after the end of its watch.

        Args:
            migration: Id of the migration.
            until: When its watch ends, seconds since the epoch; 0 before the watch.
        """
        import psutil

        if self.host != socket.gethostname():
            return time.time() < max(self.seen, until) + LEASE
        if self.pid == os.getpid():
            return migration in _running
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _TOLERANCE
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.AccessDenied:
            return True
        except psutil.NoSuchProcess:
            return False


def claim(migration: str) -> bool:
    """Take a migration for this thread; tells whether no other thread of this process has it."""
    with _lock:
        free = migration not in _running
        _running.add(migration)
        return free


def release(migration: str) -> None:
    """Give up a claim."""
    with _lock:
        _running.discard(migration)


__all__ = ["LEASE", "Owner", "claim", "release"]
