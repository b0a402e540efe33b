"""Counts, errors and latencies of a deployment in bounded memory.

Latencies go into buckets of a logarithmic histogram (as HdrHistogram does it): each power of two
of nanoseconds has 16 buckets, so a quantile is at most 3.2 % off and a version needs 8 kB per
calling thread, however many calls there are. Calls and their time are also counted by number of
rows, in powers of two. Each thread writes only its own counters, so recording takes no lock; a
snapshot adds them up.
"""

from __future__ import annotations

import collections
import threading
import time
import weakref
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUB_BITS = 4
SUB = 1 << SUB_BITS
BUCKETS = 1024
ROW_BUCKETS = 32
KEPT_ERRORS = 20
KEPT_VERSIONS = 8
_MESSAGE = 300


def bucket_of(nanoseconds: int) -> int:
    """Return the bucket of a duration, from 0 to :data:`BUCKETS` - 1."""
    if nanoseconds < SUB:
        return max(nanoseconds, 0)
    power = nanoseconds.bit_length() - 1 - SUB_BITS
    return min((power << SUB_BITS) + (nanoseconds >> power), BUCKETS - 1)


def middle_of(bucket: int) -> float:
    """Return the middle of a bucket in nanoseconds."""
    if bucket < SUB:
        return float(bucket)
    power = (bucket >> SUB_BITS) - 1
    low = (bucket - (power << SUB_BITS)) << power
    return low + (1 << power) / 2


def row_bucket_of(rows: int) -> int:
    """Return the bucket of a number of rows: ``b`` holds up to ``2**b``, more than half of it."""
    return min(max(rows - 1, 0).bit_length(), ROW_BUCKETS - 1)


class Recorder:
    """Counters of one thread for one version; only that thread writes them."""

    __slots__ = ("buckets", "calls", "errors", "faults", "row_calls", "row_total", "total")

    def __init__(self) -> None:
        self.buckets = array("Q", bytes(8 * BUCKETS))
        self.row_calls = array("Q", bytes(8 * ROW_BUCKETS))
        self.row_total = array("Q", bytes(8 * ROW_BUCKETS))
        self.calls = 0
        self.errors = 0
        self.faults = 0
        self.total = 0

    def add(self, nanoseconds: int, rows: int = 1) -> None:
        """Count one call of a number of rows that succeeded."""
        self.calls += 1
        self.total += nanoseconds
        self.buckets[bucket_of(nanoseconds)] += 1
        bucket = row_bucket_of(rows)
        self.row_calls[bucket] += 1
        self.row_total[bucket] += nanoseconds

    def merge(self, other: Recorder) -> None:
        """Add another thread's counters."""
        self.calls += other.calls
        self.errors += other.errors
        self.faults += other.faults
        self.total += other.total
        mine = self.buckets
        for bucket, count in enumerate(other.buckets):
            if count:
                mine[bucket] += count
        for bucket, count in enumerate(other.row_calls):
            self.row_calls[bucket] += count
            self.row_total[bucket] += other.row_total[bucket]


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What one version did.

    Attributes:
        version: Its id.
        calls: Calls that succeeded.
        errors: Calls that failed.
        mean_ms: Mean duration of those that succeeded; 0 if there was none.
        buckets: Number of calls by bucket of the histogram, without empty ones.
        rows: By bucket of rows (``b`` holds calls of up to ``2**b`` rows): number of calls and
            their mean duration in milliseconds.
        faults: Calls that failed although their inputs fit the signature.
    """

    version: str
    calls: int = 0
    errors: int = 0
    mean_ms: float = 0.0
    buckets: Mapping[int, int] = field(default_factory=dict)
    rows: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    faults: int = 0

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latency in milliseconds, NaN without calls.

        Args:
            q: From 0 to 1.
        """
        total = sum(self.buckets.values())
        if not total:
            return float("nan")
        rank, seen = q * (total - 1), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen > rank:
                return middle_of(bucket) / 1e6
        return middle_of(max(self.buckets)) / 1e6

    def since(self, earlier: VersionStats | None) -> VersionStats:
        """Return what happened after *earlier* was taken, for windows."""
        if earlier is None:
            return self
        calls = self.calls - earlier.calls
        total = self.mean_ms * self.calls - earlier.mean_ms * earlier.calls
        buckets = {b: n - earlier.buckets.get(b, 0) for b, n in self.buckets.items()}
        return VersionStats(
            self.version,
            calls,
            self.errors - earlier.errors,
            total / calls if calls else 0.0,
            {b: n for b, n in buckets.items() if n},
            _rows_since(self.rows, earlier.rows),
            self.faults - earlier.faults,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types, with p50, p95 and p99 in milliseconds or ``None``."""
        quantiles = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
        return {
            "version": self.version,
            "calls": self.calls,
            "errors": self.errors,
            "faults": self.faults,
            "mean_ms": self.mean_ms,
            **{k: self.quantile_ms(q) if self.buckets else None for k, q in quantiles.items()},
            "buckets": {str(b): n for b, n in sorted(self.buckets.items())},
            "rows": {str(b): list(pair) for b, pair in sorted(self.rows.items())},
        }


def _rows_since(
    now: Mapping[int, tuple[int, float]], earlier: Mapping[int, tuple[int, float]]
) -> dict[int, tuple[int, float]]:
    found = {}
    for bucket, (calls, mean) in now.items():
        before, mean_before = earlier.get(bucket, (0, 0.0))
        if calls > before:
            total = mean * calls - mean_before * before
            found[bucket] = (calls - before, total / (calls - before))
    return found


@dataclass(frozen=True, slots=True)
class CallError:
    """One of the last calls that failed; inputs and outputs are not kept."""

    time: float
    version: str
    type: str
    code: str | None
    message: str


class Token:
    """Lives as long as the thread that keeps it in its thread-local storage."""

    __slots__ = ("__weakref__",)


class Lane:
    """What one calling thread owns: which session it is in, and its counters."""

    __slots__ = ("_token", "current", "recorder", "recorders", "slot")

    def __init__(self, token: Token) -> None:
        self._token = weakref.ref(token)
        self.current: object | None = None
        self.slot: object | None = None
        self.recorder = Recorder()
        self.recorders: dict[str, Recorder] = {}

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return self._token() is None

    def enter_version(self, slot: object, version: str) -> None:
        """Count from now on for *version*."""
        recorder = self.recorders.get(version)
        if recorder is None:
            recorder = self.recorders.setdefault(version, Recorder())
        self.slot, self.recorder = slot, recorder


class Telemetry:
    """The counters of all threads of a deployment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._past: dict[str, Recorder] = {}
        self._versions: list[str] = []
        self._errors: collections.deque[CallError] = collections.deque(maxlen=KEPT_ERRORS)

    def lane(self) -> tuple[Lane, Token]:
        """Make the lane of a new thread; threads that ended hand in their counters.

        Returns:
            The lane, and a token that the thread must keep for as long as it lives.
        """
        token = Token()
        made = Lane(token)
        with self._lock:
            ended = [lane for lane in self._lanes if lane.ended]
            for lane in ended:
                self._hand_in(lane.recorders)
            self._lanes = [lane for lane in self._lanes if lane not in ended]
            self._lanes.append(made)
        return made, token

    def _hand_in(self, recorders: Mapping[str, Recorder]) -> None:
        for version, recorder in list(recorders.items()):
            if version in self._versions:
                self._past.setdefault(version, Recorder()).merge(recorder)

    def begin(self, version: str) -> None:
        """Note that *version* is run from now on; the oldest beyond 8 are forgotten."""
        with self._lock:
            if version in self._versions:
                self._versions.remove(version)
            self._versions.append(version)
            for old in self._versions[:-KEPT_VERSIONS]:
                self._past.pop(old, None)
                for lane in self._lanes:
                    lane.recorders.pop(old, None)
            self._versions = self._versions[-KEPT_VERSIONS:]

    def failed(self, lane: Lane, version: str, error: BaseException, *, fault: bool) -> None:
        """Count one call that failed.

        Args:
            lane: Of the calling thread.
            version: What ran it.
            error: How it failed.
            fault: Whether the version is to blame, and not the caller.
        """
        lane.recorder.errors += 1
        lane.recorder.faults += fault
        text = str(getattr(error, "message", "") or error)[:_MESSAGE]
        code = getattr(error, "code", None)
        self._errors.append(
            CallError(
                time.time(),
                version,
                type(error).__name__,
                code if isinstance(code, str) else None,
                text,
            )
        )

    def busy(self, slot: object) -> bool:
        """Tell whether a thread is inside a session."""
        with self._lock:
            return any(lane.current is slot for lane in self._lanes)

    def counts(self, version: str) -> tuple[int, int]:
        """Return all calls of a version so far, and those among them that it is to blame for."""
        with self._lock:
            parts = [lane.recorders.get(version) for lane in self._lanes]
            parts.append(self._past.get(version))
        known = [part for part in parts if part is not None]
        return sum(p.calls + p.errors for p in known), sum(p.faults for p in known)

    def errors(self) -> tuple[CallError, ...]:
        """Return the last calls that failed, oldest first."""
        return tuple(self._errors)

    def stats(self) -> dict[str, VersionStats]:
        """Return what each version did so far, oldest version first."""
        with self._lock:
            versions, lanes = list(self._versions), list(self._lanes)
            past = {v: _copy([self._past[v]]) if v in self._past else Recorder() for v in versions}
        found = {}
        for version in versions:
            parts = [lane.recorders[version] for lane in lanes if version in lane.recorders]
            whole = past[version]
            for part in parts:
                whole.merge(part)
            found[version] = _stats(version, whole)
        return found


def _copy(recorders: Iterable[Recorder]) -> Recorder:
    whole = Recorder()
    for one in recorders:
        whole.merge(one)
    return whole


def _stats(version: str, whole: Recorder) -> VersionStats:
    buckets = {bucket: count for bucket, count in enumerate(whole.buckets) if count}
    mean = whole.total / whole.calls / 1e6 if whole.calls else 0.0
    rows = {
        bucket: (count, whole.row_total[bucket] / count / 1e6)
        for bucket, count in enumerate(whole.row_calls)
        if count
    }
    return VersionStats(version, whole.calls, whole.errors, mean, buckets, rows, whole.faults)


__all__ = [
    "CallError",
    "Lane",
    "Recorder",
    "Telemetry",
    "VersionStats",
    "bucket_of",
    "middle_of",
    "row_bucket_of",
]
