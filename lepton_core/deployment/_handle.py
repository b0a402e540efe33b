"""The handle: runs what an alias points to, and follows it without failing a call."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.deployment._signature import check_replaces
from lepton_core.deployment._slot import Opening, open_slot
from lepton_core.deployment._telemetry import Lane, Telemetry
from lepton_core.errors import LeptonError, SessionError
from lepton_core.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np

    from lepton_core.deployment._slot import Slot
    from lepton_core.deployment._telemetry import CallError, VersionStats
    from lepton_core.dispatch import Hooks
    from lepton_core.types import Signature

_ALARMS = 100
_DRAIN_STEP = 0.002
_RETRY_FIRST = 5.0
_RETRY_LAST = 600.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that needs a person: a version that could not take over, a store out of reach.

    Attributes:
        time: Seconds since the epoch.
        kind: ``"swap"``, ``"store"`` or ``"drain"``.
        version: Version it is about.
        code: Stable code of the error.
        message: The error in words.
    """

    time: float
    kind: str
    version: str
    code: str
    message: str


class Deployment:
    """Runs the version that an alias points to, and swaps when the alias moves.

    Calls take no lock and may come from any number of threads. A swap opens and tries the new
    version first; calls that are under way end on the old one. What cannot be verified, opened
    or called like the old one does not take over: the old version goes on, and an alarm is kept
    here and in the ledger.

    Made by :func:`lepton_core.deployment`; see there for the arguments.
    """

    def __init__(
        self,
        reference: str,
        store: Store,
        hooks: Hooks,
        *,
        opening: Opening,
        poll_seconds: float | None,
        flush_seconds: float | None,
        drain_seconds: float,
        allow_signature_change: bool,
        on_alarm: Callable[[Alarm], None] | None,
        owns_store: bool,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._opening = opening
        self._drain_seconds = drain_seconds
        self._flush_seconds = flush_seconds
        self._any_signature = allow_signature_change
        self._on_alarm = on_alarm
        self._owns_store = owns_store
        self._telemetry = Telemetry()
        self._local = threading.local()
        self._swap = threading.RLock()
        self._alarms: collections.deque[Alarm] = collections.deque(maxlen=_ALARMS)
        self._retired: list[Slot] = []
        self._failed: tuple[Any, float, float] | None = None
        self._flushed: dict[str, VersionStats] = {}
        self._last_flush = time.monotonic()
        self._stop = threading.Event()
        self.swaps = 0
        resolved = store.resolve(reference)
        self.name = resolved.name
        self.alias = resolved.alias.alias if resolved.alias else None
        settings = store.watch(self.name, self.alias or "")[2]
        first = open_slot(store, hooks, resolved, opening, (resolved.version.id, settings))
        self._telemetry.begin(first.version)
        self._slot: Slot | None = first
        self._watcher: threading.Thread | None = None
        if poll_seconds is not None:
            self._watcher = threading.Thread(
                target=self._watch,
                args=(poll_seconds,),
                name=f"lepton-deployment-{self.name}",
                daemon=True,
            )
            self._watcher.start()

    # --- the fast path ------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the present version once.

        Args:
            inputs: One array per input, of the dtype and shape that :attr:`signature` states.

        Returns:
            One array per output.

        Raises:
            SessionError: LPT-DEP-001, the deployment is closed; or what the runtime says.
        """
        try:
            lane = self._local.lane
        except AttributeError:
            lane = self._local.lane = self._telemetry.lane()
        outer = lane.current
        slot = self._enter(lane)
        began = time.perf_counter_ns()
        try:
            outputs = slot.session.run(inputs)
            lane.recorder.add(time.perf_counter_ns() - began)
            return outputs
        except BaseException as error:
            self._telemetry.failed(lane, slot.version, error)
            raise
        finally:
            lane.current = outer

    def _enter(self, lane: Lane) -> Slot:
        """Announce that this thread is inside the present session, and return it.

        Once announced and still the present one, it is not closed before the thread leaves: who
        swaps changes the present one first and looks at the announcements afterwards.
        """
        while True:
            slot = self._slot
            lane.current = slot
            if self._slot is slot:
                break
        if slot is None:
            raise SessionError(
                "LPT-DEP-001",
                f"The deployment {self.name} is closed",
                remedy="Open it again with lepton_core.deployment(...).",
            )
        if lane.slot is not slot:
            lane.enter_version(slot, slot.version)
        return slot

    # --- what it is ---------------------------------------------------------------------------

    def _present(self) -> Slot:
        slot = self._slot
        if slot is None:
            raise SessionError(
                "LPT-DEP-001", f"The deployment {self.name} is closed", remedy="Open it again."
            )
        return slot

    @property
    def version(self) -> str:
        """Id of the version that runs now."""
        return self._present().version

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the version that runs now."""
        return self._present().session.signature

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the present session tells about itself."""
        return self._present().session.facts

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The last 100 alarms, oldest first."""
        return tuple(self._alarms)

    @property
    def errors(self) -> tuple[CallError, ...]:
        """The last 20 calls that failed, oldest first; without inputs and outputs."""
        return self._telemetry.errors()

    def stats(self) -> dict[str, VersionStats]:
        """Return what each of the last 8 versions did, oldest first.

        ``after[v].since(before.get(v))`` is what happened between two calls.
        """
        return self._telemetry.stats()

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON types: version, swaps, counts, latencies, errors, alarms."""
        slot = self._slot
        return {
            "name": self.name,
            "alias": self.alias,
            "version": slot.version if slot else None,
            "swaps": self.swaps,
            "versions": [one.to_dict() for one in self.stats().values()],
            "errors": [asdict(error) for error in self.errors],
            "alarms": [asdict(alarm) for alarm in self.alarms],
        }

    # --- following the alias ------------------------------------------------------------------

    def check(self, *, retry: bool = True) -> bool:
        """Look whether the alias or a setting moved, and swap if so; returns whether it swapped.

        Args:
            retry: Try a version again that could not take over before.
        """
        with self._swap:
            slot = self._slot
            if slot is None or self.alias is None:
                return False
            slot.touch()
            self._reap(0.0)
            version, _, settings = self._store.watch(self.name, self.alias)
            key = (version, settings)
            if not version or key == slot.key:
                self._failed = None
                return False
            if not retry and self._waits(key):
                return False
            return self._try_swap(slot, key)

    def _waits(self, key: Any) -> bool:  # noqa: ANN401 - a slot's key
        return (
            self._failed is not None
            and self._failed[0] == key
            and (time.monotonic() < self._failed[1])
        )

    def _try_swap(self, old: Slot, key: Any) -> bool:  # noqa: ANN401 - a slot's key
        new: Slot | None = None
        try:
            resolved = self._store.resolve(f"{self.name}@{self.alias}")
            key = (resolved.version.id, key[1])
            new = open_slot(self._store, self._hooks, resolved, self._opening, key)
            if not self._any_signature:
                check_replaces(old.session.signature, new.session.signature, new.version)
        except LeptonError as error:
            if new is not None:
                new.close()
            self._stay(key, error)
            return False
        self._telemetry.begin(new.version)
        self._slot = new
        self.swaps += 1
        self._failed = None
        self._retired.append(old)
        self._reap(self._drain_seconds)
        return True

    def _stay(self, key: Any, error: LeptonError) -> None:  # noqa: ANN401 - a slot's key
        """Note that a version could not take over; say so once, and try again ever more rarely."""
        again = self._failed is not None and self._failed[0] == key
        wait = min(self._failed[2] * 2, _RETRY_LAST) if again and self._failed else _RETRY_FIRST
        self._failed = (key, time.monotonic() + wait, wait)
        if not again:
            self._alarm("swap", key[0], error)

    def _reap(self, patience: float) -> None:
        """Close sessions that nobody is in any more, waiting at most *patience* seconds."""
        until = time.monotonic() + patience
        while True:
            for slot in list(self._retired):
                if not self._telemetry.busy(slot):
                    self._retired.remove(slot)
                    self._close_slot(slot)
            if not self._retired or time.monotonic() >= until:
                return
            time.sleep(_DRAIN_STEP)

    def _close_slot(self, slot: Slot) -> None:
        try:
            slot.close()
        except Exception as error:  # a runtime's fault must not end the watcher
            wrapped = SessionError(
                "LPT-DEP-007",
                f"The session of {slot.version} did not close: {type(error).__name__}: {error}",
                remedy="Report this to the makers of the target's plugin.",
            )
            self._alarm("drain", slot.version, wrapped)

    def _alarm(self, kind: str, version: str, error: LeptonError) -> None:
        alarm = Alarm(time.time(), kind, version, error.code, str(error))
        self._alarms.append(alarm)
        with contextlib.suppress(Exception):  # the alarm must not depend on what it is about
            details = {"kind": kind, "version": version, **error.to_dict()}
            details["alias"] = self.alias
            self._store.record(
                "deployment.alarm", self.name, why=error.message, details=_plain(details)
            )
        if self._on_alarm is not None:
            with contextlib.suppress(Exception):
                self._on_alarm(alarm)

    def _watch(self, seconds: float) -> None:
        reported = False
        while not self._stop.wait(seconds):
            try:
                self.check(retry=False)
                self._flush_if_due()
                reported = False
            except Exception as error:  # the store is out of reach: what runs goes on running
                if not reported:
                    known = error if isinstance(error, LeptonError) else None
                    self._alarm("store", "", known or _out_of_reach(error))
                    reported = True

    # --- measurements -------------------------------------------------------------------------

    def _flush_if_due(self) -> None:
        if self._flush_seconds is None:
            return
        if time.monotonic() - self._last_flush >= self._flush_seconds:
            self.flush()

    def flush(self) -> int:
        """Write what was measured since the last time into the store; returns the rows written.

        Raises:
            StorageError: The store is full, busy or damaged; nothing is lost, try again.
        """
        with self._swap:
            now = self.stats()
            rows = []
            for version, stats in now.items():
                part = stats.since(self._flushed.get(version))
                if part.calls or part.errors:
                    seconds = time.monotonic() - self._last_flush
                    rows.append({"alias": self.alias, "seconds": seconds, **part.to_dict()})
            if rows:
                self._store.metrics.write(self.name, rows)
            self._flushed, self._last_flush = now, time.monotonic()
            return len(rows)

    # --- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Let calls under way end, close the session, stop watching; again does nothing."""
        self._stop.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        with self._swap:
            slot, self._slot = self._slot, None
            if slot is None:
                return
            self._retired.append(slot)
            self._reap(self._drain_seconds)
            self._retired.clear()  # whoever is still inside frees the session when it ends
            if self._flush_seconds is not None:
                with contextlib.suppress(LeptonError):
                    self.flush()
            if self._owns_store:
                self._store.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


def _out_of_reach(error: Exception) -> SessionError:
    return SessionError(
        "LPT-DEP-008",
        f"The deployment could not look after its alias: {type(error).__name__}: {error}",
        remedy="The present version goes on; make the store readable again.",
    )


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    """Return details that any ledger row takes."""
    import json

    found: dict[str, Any] = json.loads(json.dumps(details, default=str).replace("NaN", "null"))
    return found


def open_deployment(
    reference: str,
    *,
    store: str | Path | Store | None = None,
    hooks: Hooks | None = None,
    threads: int | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    poll_seconds: float | None = 1.0,
    flush_seconds: float | None = None,
    drain_seconds: float = 30.0,
    allow_signature_change: bool = False,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> Deployment:
    """Open a deployment: ``lepton_core.deployment("digits@production")``.

    Args:
        reference: ``NAME@ALIAS``, ``NAME`` for its alias ``production``, or ``NAME@VERSION``,
            which never moves.
        store: The store or its folder; ``LEPTON_STORE`` or the user's data folder by default.
        hooks: Hooks to open sessions with; the process's own by default.
        threads: Intra-op threads; by default what the deployment's settings say.
        device: Device, likewise.
        options: Owner-specific options of the session, over those of the settings.
        poll_seconds: How often to look whether the alias moved; ``None`` only in
            :meth:`.Deployment.check`.
        flush_seconds: How often to write measurements to the store; ``None`` never.
        drain_seconds: How long a swap waits for calls under way before it goes on without them.
        allow_signature_change: Let a version take over whose signature does not fit the callers.
        on_alarm: Called with every alarm, in the watching thread.

    Returns:
        The handle; close it, or use it as a context manager.

    Raises:
        UsageError: LPT-STORE-006 … 009, the reference leads nowhere.
        StorageError: LPT-STORE-002 … 004, there is no store, or something in it is damaged.
        PluginError: The target's plugin is not installed or cannot be used.
        SessionError: The runtime refuses the model.
        DeployError: LPT-DEP-003, LPT-DEP-006.
    """
    from lepton_core.hooks import default

    opened = store if isinstance(store, Store) else Store(store, create=False)
    try:
        return Deployment(
            reference,
            opened,
            hooks or default(),
            opening=Opening(threads, device, options),
            poll_seconds=poll_seconds,
            flush_seconds=flush_seconds,
            drain_seconds=drain_seconds,
            allow_signature_change=allow_signature_change,
            on_alarm=on_alarm,
            owns_store=opened is not store,
        )
    except BaseException:
        if opened is not store:
            opened.close()
        raise


__all__ = ["Alarm", "Deployment", "open_deployment"]
