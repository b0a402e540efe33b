"""Timing a session: calls of some rows, whole or in parts, from one thread or several."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from lepton_core._split import run_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.context import Session
    from lepton_core.samples import Samples
    from lepton_core.types import Signature, TimingPoint

LEAST_SPEEDUP = 1.03
"""What is faster by less is not called so."""

_WARM_UP_RUNS = 5
_MIN_RUNS = 20
_MIN_LARGE_RUNS = 5
_MAX_RUNS = 2000
_FEEDS = 16
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_PAIRS = 21
_LEAST_PAIRS = 7
"""Rounds below which an interval would say nothing: 7 of 7 on one side are under 1 % of chance."""
_WARM_UP_SECONDS = 0.5
_TURN_SECONDS = 0.015
"""What one model's turn in a round takes."""


def feeds(signature: Signature, samples: Samples, rows: int) -> list[dict[str, Any]]:
    """Return up to 16 different inputs of a number of rows each, repeated where rows are few."""
    import numpy as np

    from lepton_core.samples import batches

    wanted = min(max(len(samples) // rows, 1), _FEEDS) * rows
    few = samples.rows(np.arange(wanted) % len(samples))
    return [inputs for inputs, _ in batches(few, signature, batch_size=rows)]


def measure(session: Session, samples: Samples, point: TimingPoint) -> dict[str, float]:
    """Time calls after a warm-up.

    Args:
        session: An open session.
        samples: Where inputs come from, in turn.
        point: How to call it.

    Returns:
        ``p50_ms``, ``p95_ms`` and ``mean_ms`` of a call, ``runs``, ``batch`` (rows that the
        signature let a call have) and ``rows_per_s`` of all callers together.

    Raises:
        SessionError: A call failed.
    """
    import numpy as np

    inputs = feeds(session.signature, samples, point.rows)
    batch = next((a.shape[0] for a in inputs[0].values() if a.ndim), 1)
    for index in range(min(_WARM_UP_RUNS, max(2, 64 // point.rows))):
        _call(session, inputs[index % len(inputs)], point.batch)
    began = time.perf_counter()
    times = _run_callers(session, inputs, point)
    wall = time.perf_counter() - began
    ms = np.asarray(times) * 1000.0
    return {
        "p50_ms": float(np.percentile(ms, 50)),
        "p95_ms": float(np.percentile(ms, 95)),
        "mean_ms": float(ms.mean()),
        "runs": float(len(times)),
        "batch": float(batch),
        "rows_per_s": float(len(times) * batch / wall),
    }


def _call(session: Session, inputs: dict[str, Any], batch: int | None) -> None:
    if batch is None:
        session.run(inputs)
    else:
        run_split(session, inputs, batch)


def _run_callers(session: Session, inputs: list[dict[str, Any]], point: TimingPoint) -> list[float]:
    """Return the seconds of every call; one caller runs in this thread."""
    if point.callers == 1:
        return _run_one(session, inputs, point, 0)
    found: list[list[float]] = [[] for _ in range(point.callers)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            found[number] = _run_one(session, inputs, point, number)
        except BaseException as error:  # raised again where the measuring was asked for
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(point.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return list(itertools.chain.from_iterable(found))


def _run_one(
    session: Session, inputs: list[dict[str, Any]], point: TimingPoint, first: int
) -> list[float]:
    times: list[float] = []
    least = _MIN_RUNS if point.rows == 1 else _MIN_LARGE_RUNS
    began = time.perf_counter()
    while len(times) < _MAX_RUNS:
        feed = inputs[(first + len(times)) % len(inputs)]
        start = time.perf_counter()
        _call(session, feed, point.batch)
        now = time.perf_counter()
        times.append(now - start)
        if now - began > point.seconds and len(times) >= least:
            break
    return times


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of the median at 95 % (percentile method; Efron 1979).

    Args:
        values: At least one.
        seed: Of the resampling.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(values), size=(_RESAMPLES, len(values)))
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(np.median(drawn, axis=1), [tail, 100 - tail])
    return float(low), float(high)


def race(
    pair: tuple[Session, Session],
    inputs: Sequence[dict[str, Any]],
    seed: int = 0,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Time two sessions in turns.

    Each of 21 rounds gives both a slice of time, in changing order, so that whatever else the
    machine does falls on both; of each slice the median call counts. The interval is that of the
    median ratio, by resampling rounds.

    Args:
        pair: The session before, and the one after.
        inputs: Inputs of one call each, used in turn.
        seed: Of the resampling.
        seconds: Time to spend on the rounds, about; 0 for slices of 15 ms. Models of slow calls
            get fewer rounds, 7 at least, of one call each.

    Returns:
        ``before_ms``, ``after_ms``, ``speedup`` (before over after) and its ``interval`` (95 %).

    Raises:
        SessionError: A call failed.
    """
    import numpy as np

    turn = min(seconds / (2 * _PAIRS), _TURN_SECONDS) if seconds > 0 else _TURN_SECONDS
    found = [_calls_of_turn(session, inputs, turn) for session in pair]
    calls = [count for count, _ in found]
    pairs = _PAIRS
    if seconds > 0:
        round_seconds = sum(count * once for count, once in found)
        pairs = int(min(max(seconds / round_seconds, _LEAST_PAIRS), _PAIRS))
    times = np.zeros((pairs, 2))
    for number in range(pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            times[number, which] = _turn(pair[which], inputs, calls[which])
    ratios = times[:, 0] / times[:, 1]
    return {
        "before_ms": float(np.median(times[:, 0]) * 1000),
        "after_ms": float(np.median(times[:, 1]) * 1000),
        "speedup": float(np.median(ratios)),
        "interval": list(interval(ratios.tolist(), seed)),
    }


def _turn(session: Session, inputs: Sequence[dict[str, Any]], calls: int) -> float:
    """Return the median time of some calls, in seconds."""
    import numpy as np

    times = []
    for number in range(calls):
        began = time.perf_counter()
        session.run(inputs[number % len(inputs)])
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _calls_of_turn(
    session: Session, inputs: Sequence[dict[str, Any]], turn: float
) -> tuple[int, float]:
    """Warm up and return how many calls fill a turn, and the seconds of one."""
    began = time.perf_counter()
    for number in range(3):
        session.run(inputs[number % len(inputs)])
        if number and time.perf_counter() - began > _WARM_UP_SECONDS:
            break
    began = time.perf_counter()
    session.run(inputs[0])
    once = max(time.perf_counter() - began, 1e-6)
    return int(min(max(turn / once, 1), 500)), once


def faster(found: Mapping[str, Any]) -> str:
    """Say how much faster the second of a :func:`race` is; empty unless that is beyond chance.

    Args:
        found: What the race gave; may be empty.
    """
    if not found or found["interval"][0] <= 1.0 or found["speedup"] < LEAST_SPEEDUP:
        return ""
    low, high = found["interval"]
    return f"{found['speedup']:.2f}x faster ({low:.2f} to {high:.2f} at 95 %)"


__all__ = ["LEAST_SPEEDUP", "faster", "feeds", "interval", "measure", "race"]
