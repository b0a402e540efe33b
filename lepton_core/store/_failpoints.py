"""Places at which a test may end the process, to prove that a crash does no harm.

``LEPTON_FAILPOINT=NAME`` or ``NAME:3`` kills the process, as ``kill -9`` would, when it reaches
that point for the first (third) time; ``LEPTON_FAILPOINT=trace`` notes every point in
:data:`REACHED`. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "store.folders-made",
    "store.marker-written",
    "cas.folder-made",
    "cas.temporary-made",
    "cas.half-written",
    "cas.written",
    "cas.synced",
    "cas.replaced",
    "cas.folder-synced",
    "transaction.begun",
    "transaction.row-changed",
    "transaction.row-appended",
    "transaction.head-announced",
    "transaction.committed",
    "transaction.head-marked",
    "seal.removed",
    "seal.written",
    "gc.versions-removed",
    "gc.file-removed",
    "gc.files-removed",
    "gc.leftover-removed",
    "adjust.on-trial",
    "adjust.measured",
    "adjust.finished",
    "migrate.planned",
    "migrate.built",
    "migrate.verified",
    "migrate.switched",
    "migrate.watched",
    "migrate.ended",
)
"""Every write point of the store and of the engines above it."""

REACHED: list[str] = []
"""Points passed so far, while tracing."""

_name = ""
_left = 1


def arm(text: str) -> None:
    """Choose the point that ends this process: what stands in ``LEPTON_FAILPOINT``."""
    global _name, _left  # noqa: PLW0603 - one countdown per process
    _name, _, count = text.partition(":")
    _left = int(count or 1)


def reach(name: str) -> None:
    """Pass the point *name*; ends the process if the environment asks for it."""
    global _left  # noqa: PLW0603 - a countdown of this process
    if not _name:
        return
    if name not in POINTS:
        msg = f"{name!r} is not a declared failpoint"
        raise RuntimeError(msg)
    if _name == "trace":
        REACHED.append(name)
    elif name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


arm(os.environ.get("LEPTON_FAILPOINT", ""))

__all__ = ["POINTS", "REACHED", "arm", "reach"]
