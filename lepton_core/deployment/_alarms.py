"""Alarms: what a deployment could not do by itself, kept here and in the ledger."""

from __future__ import annotations

import collections
import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_core.errors import LeptonError
    from lepton_core.store import Store

KEPT = 100
RETURNING = ("swap", "health")
"""Alarms that end the migration which led to the version they are about."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that needs a person: a version that could not take over, a store out of reach.

    Attributes:
        time: Seconds since the epoch.
        kind: ``"swap"`` (a version could not take over), ``"dispatch"`` (a dispatch table could
            not be opened), ``"store"`` (out of reach), ``"drain"`` (a session did not close) or
            ``"health"`` (calls fail).
        version: Version it is about.
        code: Stable code of the error.
        message: The error in words.
    """

    time: float
    kind: str
    version: str
    code: str
    message: str


class Alarms:
    """The alarms of one deployment.

    Args:
        store: Where the ledger is.
        name: Name of the deployment.
        alias: Its alias, if it follows one.
        listener: Called with every alarm; what it raises is ignored.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        alias: str | None,
        listener: Callable[[Alarm], None] | None,
    ) -> None:
        self._store = store
        self._name = name
        self._alias = alias
        self._listener = listener
        self._kept: collections.deque[Alarm] = collections.deque(maxlen=KEPT)

    def last(self) -> tuple[Alarm, ...]:
        """Return the last 100, oldest first."""
        return tuple(self._kept)

    def add(self, kind: str, version: str, error: LeptonError) -> None:
        """Keep an alarm, write it into the ledger, tell the listener."""
        alarm = Alarm(time.time(), kind, version, error.code, str(error))
        self._kept.append(alarm)
        details = {"kind": kind, "version": version, "alias": self._alias, **error.to_dict()}
        with contextlib.suppress(Exception):  # the alarm must not depend on what it is about
            self._store.record(
                "deployment.alarm", self._name, why=error.message, details=plain_details(details)
            )
        if self._listener is not None:
            with contextlib.suppress(Exception):
                self._listener(alarm)
        if kind in RETURNING and self._alias is not None:
            self._return(version, f"alarm ({kind}) of a deployment handle: {error.message}")

    def _return(self, version: str, why: str) -> None:
        """Take back the migration that led to a version, if it is still being watched."""
        from lepton_core.migration import return_watched

        with contextlib.suppress(Exception):  # the next look tries again
            return_watched(self._store, self._name, self._alias or "", version, why)


def out_of_reach(error: Exception) -> SessionError:
    """Return the alarm for a store that cannot be looked at."""
    return SessionError(
        "LPT-DEP-008",
        f"The deployment could not look after its alias: {type(error).__name__}: {error}",
        remedy="The present version goes on; make the store readable again.",
    )


def plain_details(details: dict[str, Any]) -> dict[str, Any]:
    """Return details that any ledger row takes."""
    found: dict[str, Any] = json.loads(json.dumps(details, default=str).replace("NaN", "null"))
    return found


__all__ = ["Alarm", "Alarms", "out_of_reach", "plain_details"]
