"""From observations to a dispatch table.

For calls of each number of rows that was observed, the cheapest way counts, if it is better than
the present one by more than ``min_gain``; the border between two numbers of rows is their
geometric mean. Where that needs more than :data:`SESSIONS` sessions, or more memory than there
is, one way for all calls is chosen instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_core.errors import AdjustError
from lepton_core.types import AdjustResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.types import AdjustRequest

    Way = Mapping[str, Any]

SESSIONS = 2


def plan(request: AdjustRequest) -> AdjustResult:
    """Return the one change that is worth trying, or none.

    Args:
        request: Its options hold ``observations``, ``workload``, ``current`` (routes), ``limits``
            and ``min_gain``; docs/reference/adjust.md describes them.

    Raises:
        AdjustError: LPT-ADJ-008, it was asked as an engine, with nothing observed.
    """
    options = request.options
    if "observations" not in options:
        raise AdjustError(
            "LPT-ADJ-008",
            f"{request.engine!r} is a policy, and no engine that adjusts a deployment",
            cause="a policy plans by what the embedded engine has observed",
            remedy=f"Leave --engine out, and write --policy {request.engine}.",
        )
    problem = _Problem(request.objective, options)
    chosen = problem.choose()
    if chosen is None:
        return AdjustResult(request.name)
    ratio = problem.ratio(chosen)
    if ratio > 1.0 - options["min_gain"]:
        return AdjustResult(request.name)
    change = {
        "routes": _routes(chosen),
        "cause": problem.cause(chosen),
        "predicted": {"ratio": ratio},
    }
    return AdjustResult(request.name, (change,))


class _Problem:
    """What is to be chosen: a way for each number of rows.

    Args:
        objective: ``latency``, ``throughput`` or ``memory``.
        options: Of the request.
    """

    def __init__(self, objective: str, options: Mapping[str, Any]) -> None:
        self._objective = objective
        self._loads: Sequence[Mapping[str, Any]] = options["workload"]
        self._limits: Mapping[str, Any] = options["limits"]
        self._min_gain: float = options["min_gain"]
        self._current: Sequence[Mapping[str, Any]] = options["current"]
        self._ways: dict[int, list[Way]] = {load["rows"]: [] for load in self._loads}
        for way in options["observations"]:
            self._ways[way["rows"]].append(way)

    def choose(self) -> dict[int, Way] | None:
        """Return the way for each number of rows; ``None`` if there is nothing to compare."""
        if not all(self._ways.values()):
            return None
        if self._objective != "memory":
            split = {rows: self._best(rows) for rows in self._ways}
            if len(_sessions(split)) <= SESSIONS and self._fits(split):
                return split
        sessions = sorted({_session(w) for ways in self._ways.values() for w in ways})
        whole = [{rows: self._best(rows, session) for rows in self._ways} for session in sessions]
        return min((one for one in whole if self._fits(one)), key=self.ratio, default=None)

    def _best(self, rows: int, session: tuple[str, int] | None = None) -> Way:
        """Return the cheapest way; a whole call before parts, and the present way if none gains."""
        ways = [w for w in self._ways[rows] if session is None or _session(w) == session]
        best = min(ways, key=lambda w: (self._cost(w), w["batch"] is not None))
        now = self._now(rows)
        worth = now is None or self._cost(best) < (1.0 - self._min_gain) * self._cost(now)
        return best if worth or session is not None or now is None else now

    def _now(self, rows: int) -> Way | None:
        """Return the present way of running calls of so many rows, as it was observed."""
        route = next(r for r in self._current if r["rows"] is None or rows <= r["rows"])
        threads = route["threads"] or self._limits["threads"]
        batch = route["batch"] if route["batch"] and route["batch"] < rows else None
        wanted = (route["version"], threads, batch)
        return next(
            (w for w in self._ways[rows] if (w["version"], w["threads"], w["batch"]) == wanted),
            None,
        )

    def _cost(self, way: Way) -> float:
        if self._objective == "throughput":
            return 1.0 / float(way["rows_per_s"])
        return float(way["memory_bytes"] if self._objective == "memory" else way["p50_ms"])

    def _fits(self, chosen: Mapping[int, Way]) -> bool:
        """Tell whether the sessions fit into the memory; two sessions share their runtime."""
        limit = self._limits["memory_bytes"]
        sizes = {_session(way): way["memory_bytes"] for way in chosen.values()}
        return limit is None or sum(sizes.values()) <= limit

    def ratio(self, chosen: Mapping[int, Way]) -> float:
        """Return the cost of a choice over the present one; below 1 is better."""
        total = 0.0
        for load in self._loads:
            now = self._now(load["rows"])
            if now is None or self._cost(now) == 0.0:  # the present way may not run: any is better
                return 0.0
            total += load["share"] * self._cost(chosen[load["rows"]]) / self._cost(now)
        return total

    def cause(self, chosen: Mapping[int, Way]) -> str:
        """Return the reason in words."""
        parts = []
        for rows, way in sorted(chosen.items()):
            now = self._now(rows)
            if now is way:
                continue
            before = "" if now is None else f" instead of {self._said(now)} on {_name(now)}"
            what = f"calls of {rows} row{'s' if rows > 1 else ''}"
            parts.append(f"{what} take {self._said(way)} on {_name(way)}{before}")
        return "; ".join(parts)

    def _said(self, way: Way) -> str:
        if self._objective == "throughput":
            return f"{way['rows_per_s']:.4g} rows/s"
        if self._objective == "memory":
            return f"{way['memory_bytes'] / 2**20:.1f} MiB"
        return f"{way['p50_ms']:.3g} ms"


def _session(way: Way) -> tuple[str, int]:
    return way["version"], way["threads"]


def _sessions(chosen: Mapping[int, Way]) -> set[tuple[str, int]]:
    return {_session(way) for way in chosen.values()}


def _name(way: Way) -> str:
    threads = f"{way['threads']} thread{'s' if way['threads'] > 1 else ''}"
    parts = f", {way['batch']} rows at a time" if way["batch"] else ""
    return f"{way['target']} {way['precision']} ({threads}{parts})".replace("  ", " ")


def _routes(chosen: Mapping[int, Way]) -> list[dict[str, Any]]:
    """Return the dispatch table: neighbours that are run alike share a route."""
    points = sorted(chosen)
    routes: list[dict[str, Any]] = []
    for rows, larger in zip(points, [*points[1:], None], strict=True):
        way = chosen[rows]
        limit = None if larger is None else max(rows, math.isqrt(rows * larger))
        route = {key: way[key] for key in ("version", "threads", "batch")} | {"rows": limit}
        if routes and {**routes[-1], "rows": limit} == route:
            routes[-1] = route
        else:
            routes.append(route)
    return routes


__all__ = ["SESSIONS", "plan"]
