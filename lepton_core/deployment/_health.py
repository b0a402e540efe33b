"""Does the present version do its work: calls that fail through no fault of their callers."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SampleError, SessionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.deployment._alarms import Alarms
    from lepton_core.deployment._table import Table
    from lepton_core.deployment._telemetry import Telemetry
    from lepton_core.types import Signature, TensorSpec

LEAST_FAULTS = 3
"""Fewer failed calls than this say nothing about a version."""

LARGEST_SHARE = 0.05
"""Share of failed calls above which a version does not do its work."""

WINDOW_SECONDS = 60.0
"""Calls of so long ago count no more: a version that did its work for a month may fail today."""

Counts = tuple[float, int, int]
"""A moment, and the calls and faults of a version up to then."""


def is_fault(error: BaseException, inputs: Mapping[str, Any], signature: Signature) -> bool:
    """Tell whether a call failed although its caller did nothing wrong.

    A call whose inputs do not fit the signature is the caller's fault, whatever the runtime made
    of it; so are errors of usage, and an interruption.

    Args:
        error: How it failed.
        inputs: What was passed.
        signature: What the version takes.
    """
    if not isinstance(error, Exception) or isinstance(error, UsageError | SampleError):
        return False
    return _fits(inputs, signature)


def _fits(inputs: Mapping[str, Any], signature: Signature) -> bool:
    if set(inputs) != {spec.name for spec in signature.inputs}:
        return False
    sizes: dict[str, int] = {}
    return all(_takes(spec, inputs[spec.name], sizes) for spec in signature.inputs)


def _takes(spec: TensorSpec, array: Any, sizes: dict[str, int]) -> bool:  # noqa: ANN401 - any value
    shape = getattr(array, "shape", None)
    if shape is None or str(getattr(array, "dtype", "")) != spec.dtype:
        return False
    if len(shape) != len(spec.shape):
        return False
    for size, dim in zip(shape, spec.shape, strict=True):
        wanted = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if wanted is not None and size != wanted:
            return False
    return True


class Health:
    """Looks at the counters of a deployment, and alarms once for a version.

    Args:
        telemetry: The counters.
        alarms: Where alarms go.
    """

    def __init__(self, telemetry: Telemetry, alarms: Alarms) -> None:
        self._telemetry = telemetry
        self._alarms = alarms
        self._alarmed: set[str] = set()
        self._seen: dict[str, collections.deque[Counts]] = {}
        self._left: dict[str, tuple[int, int]] = {}

    def look(self, table: Table | None, now: float | None = None) -> None:
        """Alarm if too many of the last minute's calls failed; cheap enough for every poll.

        Args:
            table: What runs now.
            now: Seconds of a clock that only rises; the process's own by default.
        """
        now = time.monotonic() if now is None else now
        running = {slot.version for slot in table.slots} if table else set()
        self._follow(running, now)
        for version in running - self._alarmed:
            calls, faults = self._lately(version, now)
            if faults < LEAST_FAULTS or faults <= LARGEST_SHARE * calls:
                continue
            self._alarmed.add(version)
            self._alarms.add("health", version, self._failing(version, calls, faults))

    def _follow(self, running: set[str], now: float) -> None:
        """Begin with versions that came, and forget those that went: they may come back mended."""
        for version in set(self._seen) - running:
            del self._seen[version]
            self._left[version] = self._telemetry.counts(version)
            self._alarmed.discard(version)
        for version in running - set(self._seen):
            before = self._left.pop(version, (0, 0))
            self._seen[version] = collections.deque([(now, *before)])

    def _lately(self, version: str, now: float) -> tuple[int, int]:
        """Return calls and faults since the last look that is a window ago, or since it came."""
        calls, faults = self._telemetry.counts(version)
        seen = self._seen[version]
        seen.append((now, calls, faults))
        while len(seen) > 1 and seen[1][0] <= now - WINDOW_SECONDS:
            seen.popleft()
        return calls - seen[0][1], faults - seen[0][2]

    def _failing(self, version: str, calls: int, faults: int) -> SessionError:
        last = next((e for e in reversed(self._telemetry.errors()) if e.version == version), None)
        return SessionError(
            "LPT-DEP-012",
            f"{faults} of {calls} calls of {version} failed",
            cause=f"the last one: {last.code or last.type}: {last.message}" if last else None,
            remedy="`lepton store rollback` goes back to the version before; a migration that is "
            "still watched goes back by itself.",
            details={"version": version, "calls": calls, "faults": faults},
        )


__all__ = ["LARGEST_SHARE", "LEAST_FAULTS", "Health", "is_fault"]
