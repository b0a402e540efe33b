"""The handle: runs what an alias points to, and follows it without failing a call."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lepton_core._split import rows_of
from lepton_core.deployment._alarms import Alarm, Alarms, out_of_reach
from lepton_core.deployment._health import Health, is_fault
from lepton_core.deployment._table import Opener, OpenRoute, Table
from lepton_core.deployment._telemetry import Lane, Telemetry
from lepton_core.errors import LeptonError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from lepton_core.deployment._routes import Route
    from lepton_core.deployment._slot import Opening, Slot
    from lepton_core.deployment._telemetry import CallError, VersionStats
    from lepton_core.dispatch import Hooks
    from lepton_core.store import Store
    from lepton_core.types import Signature

_DRAIN_STEP = 0.002
_POLL_LEAST = 0.001
_RETRY_FIRST = 5.0
_RETRY_LAST = 600.0


class Deployment:
    """Runs the version that an alias points to, and swaps when the alias moves.

    Where a dispatch table stands for the alias, as `adjust` writes it, the table says which
    variant, threads and batch a call of so many rows gets.

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
        self._drain_seconds = drain_seconds
        self._flush_seconds = flush_seconds
        self._owns_store = owns_store
        self._telemetry = Telemetry()
        self._local = threading.local()
        self._swap = threading.RLock()
        self._retired: list[Slot] = []
        self._failed: tuple[Any, float, float] | None = None
        self._flushed: dict[str, VersionStats] = {}
        self._last_flush = time.monotonic()
        self._stop = threading.Event()
        self.swaps = 0
        resolved = store.resolve(reference)
        self.name = resolved.name
        self.alias = resolved.alias.alias if resolved.alias else None
        self._alarms = Alarms(store, self.name, self.alias, on_alarm)
        self._health = Health(self._telemetry, self._alarms)
        settings = store.watch(self.name, self.alias or "")[2]
        self._opener = Opener(
            store, hooks, opening, self.alias, any_signature=allow_signature_change
        )
        first = self._opener.open(resolved, (resolved.version.id, settings), None, self._refused)
        self._begin(first)
        self._table: Table | None = first
        self._watcher: threading.Thread | None = None
        if poll_seconds is not None:
            self._watcher = threading.Thread(
                target=self._watch,
                args=(max(poll_seconds, _POLL_LEAST),),
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
            lane, self._local.token = self._telemetry.lane()
            self._local.lane = lane
        outer = lane.current
        rows = rows_of(inputs)
        route = self._enter(lane, rows)
        began = time.perf_counter_ns()
        try:
            outputs = route.run(inputs)
            lane.recorder.add(time.perf_counter_ns() - began, rows)
            return outputs
        except BaseException as error:
            fault = is_fault(error, inputs, route.slot.session.signature)
            self._telemetry.failed(lane, route.slot.version, error, fault=fault)
            raise
        finally:
            lane.current = outer

    def _enter(self, lane: Lane, rows: int) -> OpenRoute:
        """Announce that this thread is inside the session for so many rows, and return its route.

        Once announced and its table still the present one, it is not closed before the thread
        leaves: who swaps changes the table first and looks at the announcements afterwards.
        """
        while True:
            table = self._table
            if table is None:
                break
            route = table.pick(rows)
            lane.current = route.slot
            if self._table is table:
                if lane.slot is not route.slot:
                    lane.enter_version(route.slot, route.slot.version)
                return route
        raise SessionError(
            "LPT-DEP-001",
            f"The deployment {self.name} is closed",
            remedy="Open it again with lepton_core.deployment(...).",
        )

    # --- what it is ---------------------------------------------------------------------------

    def _present(self) -> Table:
        table = self._table
        if table is None:
            raise SessionError(
                "LPT-DEP-001", f"The deployment {self.name} is closed", remedy="Open it again."
            )
        return table

    @property
    def version(self) -> str:
        """Id of the version that the alias points to; :attr:`routes` may name its variants."""
        return self._present().version

    @property
    def routes(self) -> tuple[Route, ...]:
        """Who runs a call of how many rows; one route unless there is a dispatch table."""
        return tuple(route.route for route in self._present().routes)

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of what runs now."""
        return self._present().main.session.signature

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the session of the largest calls tells about itself."""
        return self._present().main.session.facts

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The last 100 alarms, oldest first."""
        return self._alarms.last()

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
        table = self._table
        return {
            "name": self.name,
            "alias": self.alias,
            "version": table.version if table else None,
            "change": table.change if table else "",
            "routes": [route.route.to_dict() for route in table.routes] if table else [],
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
            table = self._table
            if table is None or self.alias is None:
                return False
            for slot in table.slots:
                slot.touch()
            self._reap(0.0)
            version, _, settings = self._store.watch(self.name, self.alias)
            key = (version, settings)
            if not version or (key == table.key and not table.stale(time.time())):
                self._failed = None
                return False
            if not retry and self._waits(key):
                return False
            return self._try_swap(table, key)

    def _waits(self, key: Any) -> bool:  # noqa: ANN401 - a table's key
        return (
            self._failed is not None
            and self._failed[0] == key
            and (time.monotonic() < self._failed[1])
        )

    def _try_swap(self, old: Table, key: Any) -> bool:  # noqa: ANN401 - a table's key
        try:
            resolved = self._store.resolve(f"{self.name}@{self.alias}")
            key = (resolved.version.id, key[1])
            new = self._opener.open(resolved, key, old, self._refused)
        except LeptonError as error:
            self._stay(key, error)
            return False
        if self._flush_seconds is not None:  # so that no window covers two tables
            with contextlib.suppress(LeptonError):
                self.flush()
        self._begin(new)
        self._table = new
        self._failed = None
        gone = [slot for slot in old.slots if slot not in new.slots]
        if not gone and [r.route for r in new.routes] == [r.route for r in old.routes]:
            return False
        self.swaps += 1
        self._retired += gone
        self._reap(self._drain_seconds)
        return True

    def _begin(self, table: Table) -> None:
        for slot in table.slots:
            self._telemetry.begin(slot.version)

    def _refused(self, version: str, error: LeptonError) -> None:
        """Note that a dispatch table could not be opened and gave way to the one before it."""
        self._alarms.add("dispatch", version, error)

    def _stay(self, key: Any, error: LeptonError) -> None:  # noqa: ANN401 - a table's key
        """Note that a version could not take over; say so once, and try again ever more rarely."""
        again = self._failed is not None and self._failed[0] == key
        wait = min(self._failed[2] * 2, _RETRY_LAST) if again and self._failed else _RETRY_FIRST
        self._failed = (key, time.monotonic() + wait, wait)
        if not again:
            self._alarms.add("swap", key[0], error)

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
            self._alarms.add("drain", slot.version, wrapped)

    def _watch(self, seconds: float) -> None:
        reported = False
        while not self._stop.wait(seconds):
            try:
                self.check(retry=False)
                self._health.look(self._table)
                self._flush_if_due()
                reported = False
            except Exception as error:  # the store is out of reach: what runs goes on running
                if not reported:
                    known = error if isinstance(error, LeptonError) else None
                    self._alarms.add("store", "", known or out_of_reach(error))
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
        table = self._table
        return self._flush(table.change if table else "")

    def _flush(self, change: str) -> int:
        with self._swap:
            now = self.stats()
            rows = []
            for version, stats in now.items():
                part = stats.since(self._flushed.get(version))
                if part.calls or part.errors:
                    seconds = time.monotonic() - self._last_flush
                    rows.append(
                        {
                            "alias": self.alias,
                            "change": change,
                            "seconds": seconds,
                            **part.to_dict(),
                        }
                    )
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
            table = self._table
            if table is None:
                return
            self._table = None
            self._retired += table.slots
            self._reap(self._drain_seconds)
            self._retired.clear()  # whoever is still inside frees the session when it ends
            if self._flush_seconds is not None:
                with contextlib.suppress(LeptonError):
                    self._flush(table.change)
            if self._owns_store:
                self._store.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


__all__ = ["Deployment"]
