"""What a change really does: old and new table in turns, and what live handles measured.

Both tables are opened as a handle opens them and called in pairs that change places, so that
whatever else the machine does falls on both. The ratio of costs has a bootstrap interval over the
pairs (percentile method; Efron 1979).
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.adjusting._workload import live_rows
from lepton_core.deployment._table import Opener
from lepton_core.timing import interval

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lepton_core.adjusting._workload import Load
    from lepton_core.deployment._routes import Route
    from lepton_core.deployment._table import Table
    from lepton_core.dispatch import Hooks
    from lepton_core.store import Resolved, Store

PAIRS = 21
PAIR_SECONDS = 0.03
LEAST_LIVE_CALLS = 50
LIVE_TOLERANCE = 1.05
_POLL = 0.2


@dataclass(frozen=True, slots=True)
class Effect:
    """A measured effect.

    Attributes:
        ratio: Cost after over cost before; below 1 is better.
        low: Lower end of its 95 % interval, and
        high: the upper one.
        pairs: Number of pairs.
        rel_l2: Largest relative L2 difference between the answers of both; of outputs that are
            no floats, the share of values that differ.
        live: Ratio in the calls that live handles measured, ``None`` if there were too few.
        live_calls: Number of those calls under the new table.
        answers: What speaks for the answers: ``"samples"``, ``"golden"`` (real golden inputs) or
            ``"random"``, the inputs of the calls; ``"passport"`` where those were noise outside of
            calibrated ranges, and passports that passed on real rows count instead; empty where
            answers were not compared.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    rel_l2: float = 0.0
    live: float | None = None
    live_calls: int = 0
    answers: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types; infinity, which JSON does not have, as ``"Infinity"``."""
        data = asdict(self)
        return data if math.isfinite(self.rel_l2) else {**data, "rel_l2": "Infinity"}


class Probe:
    """Runs two tables in turns.

    Args:
        store: The store.
        hooks: Opens sessions.
        base: What the alias points to.
        inputs: Inputs by number of rows.
        callers: Threads that call at the same time.
    """

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        base: Resolved,
        inputs: Mapping[int, Sequence[Mapping[str, Any]]],
        callers: int,
    ) -> None:
        from lepton_core.deployment._slot import Opening

        self._opener = Opener(store, hooks, Opening(), None, any_signature=False)
        self._base = base
        self._inputs = inputs
        self._callers = callers

    def compare(
        self,
        before: Sequence[Route],
        after: Sequence[Route],
        loads: Sequence[Load],
        objective: str,
        checkpoint: Callable[[], None],
    ) -> Effect:
        """Return the effect of running *after* in the place of *before*.

        Raises:
            LeptonError: One of them cannot be opened or run.
        """
        tables: list[Table] = []
        try:
            for routes in (before, after):
                tables.append(self._opener.open_fixed(self._base, routes))
            ratios = []
            for number in range(PAIRS):
                checkpoint()
                order = tables if number % 2 else tables[::-1]
                costs = {id(t): [self._cost(t, load.rows, objective) for load in loads]
                         for t in order}  # fmt: skip
                old, new = costs[id(tables[0])], costs[id(tables[1])]
                if number == 0:
                    continue  # the first pair warms both up
                ratios.append(sum(x.share * b / a for x, a, b in zip(loads, old, new, strict=True)))
            low, high = interval(ratios)
            worst = max(self._difference(tables[0], tables[1], load.rows) for load in loads)
            return Effect(_median(ratios), low, high, len(ratios), worst)
        finally:
            for table in tables:
                for slot in table.slots:
                    slot.close()

    def _cost(self, table: Table, rows: int, objective: str) -> float:
        """Return the median seconds of a call, or the seconds per row of all callers together."""
        if objective != "throughput" and self._callers == 1:
            return _median(self._call(table, rows))
        times: list[list[float]] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                times.append(self._call(table, rows))
            except BaseException as error:  # raised again where the comparison was asked for
                failures.append(error)

        began = time.perf_counter()
        threads = [threading.Thread(target=work) for _ in range(self._callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - began
        if failures:
            raise failures[0]
        flat = [one for part in times for one in part]
        return wall / (len(flat) * rows) if objective == "throughput" else _median(flat)

    def _call(self, table: Table, rows: int) -> list[float]:
        route, feeds = table.pick(rows), self._inputs[rows]
        times: list[float] = []
        until = time.perf_counter() + PAIR_SECONDS
        while True:
            feed = feeds[len(times) % len(feeds)]
            began = time.perf_counter()
            route.run(feed)
            now = time.perf_counter()
            times.append(now - began)
            if now > until:
                return times

    def _difference(self, before: Table, after: Table, rows: int) -> float:
        pairs = [
            (before.pick(rows).run(feed), after.pick(rows).run(feed)) for feed in self._inputs[rows]
        ]
        shared = pairs[0][0].keys() & pairs[0][1].keys()
        return max(
            (difference([(old[name], new[name]) for old, new in pairs]) for name in shared),
            default=0.0,
        )


def difference(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Return how far the answers of one output are apart, over all calls together.

    Args:
        pairs: Arrays of both sides, call by call.

    Returns:
        Relative L2 error of floats; of labels and other integers the share of values that differ,
        because a distance between labels means nothing. Infinity if shapes differ.
    """
    import numpy as np

    from lepton_core.deployment._golden import rel_l2

    if any(np.shape(old) != np.shape(new) for old, new in pairs):
        return float("inf")
    old, new = (np.concatenate([np.ravel(pair[side]) for pair in pairs]) for side in (0, 1))
    if all(np.issubdtype(side.dtype, np.inexact) for side in (old, new)):
        return rel_l2(old, new)
    return float(np.mean(old != new)) if old.size else 0.0


def _median(values: Sequence[float]) -> float:
    import statistics

    return float(statistics.median(values))


class LiveWatch:
    """What live handles measure before and after a change.

    Args:
        store: The store.
        base: What the alias points to.
        before: Id of the change that counted before.
        versions: Versions that ran under it. Every version that was never adjusted has the change
            ``""``, so its id alone would mix in what an earlier version of the alias did.
    """

    def __init__(
        self, store: Store, base: Resolved, before: str, versions: Collection[str]
    ) -> None:
        alias = base.alias.alias if base.alias else ""
        self._where = (store, base.name, alias)
        seen = live_rows(*self._where)
        self._last = seen[-1].id if seen else 0
        self._before = _means(
            m.data
            for m in seen
            if m.data.get("change", "") == before and m.data.get("version") in versions
        )

    @property
    def there(self) -> bool:
        """Whether any handle measured the table before."""
        return bool(self._before)

    def after(self, change: str, seconds: float) -> tuple[float | None, int]:
        """Wait for measurements under a change.

        Args:
            change: Id of the change.
            seconds: How long to wait for enough calls.

        Returns:
            Ratio of the mean time of calls of equal size, weighted by the time they took before;
            ``None`` if there were too few. And the number of calls.
        """
        until = time.monotonic() + seconds
        while True:
            rows = live_rows(*self._where, after=self._last)
            now = _means(m.data for m in rows if m.data.get("change", "") == change)
            both = sorted(set(now) & set(self._before))
            calls = sum(now[b][0] for b in both)
            if calls >= LEAST_LIVE_CALLS or time.monotonic() >= until:
                break
            time.sleep(_POLL)
        if calls < LEAST_LIVE_CALLS:
            return None, calls
        spent = sum(now[b][0] * self._before[b][1] for b in both)
        return sum(now[b][0] * now[b][1] for b in both) / spent, calls


def _means(data: Any) -> dict[int, tuple[int, float]]:  # noqa: ANN401 - an iterable of mappings
    """Return calls and mean milliseconds by bucket of rows, over several measurements."""
    found: dict[int, tuple[int, float]] = {}
    for one in data:
        for bucket, (calls, mean) in one.get("rows", {}).items():
            old_calls, old_mean = found.get(int(bucket), (0, 0.0))
            total = old_calls + calls
            found[int(bucket)] = (total, (old_calls * old_mean + calls * mean) / total)
    return found


__all__ = ["LIVE_TOLERANCE", "Effect", "LiveWatch", "Probe", "difference"]
