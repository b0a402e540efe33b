"""Worker processes: one per plugin, reused, with limits; a crash there is an error here.

A worker is started as a fresh interpreter (never forked), so heavy imports, chatter and crashes
of a backend stay out of the caller's process. Only plain data and paths cross the border.
"""

from __future__ import annotations

from lepton_core.workers.pool import Remote, WorkerPool

__all__ = ["Remote", "WorkerPool"]
