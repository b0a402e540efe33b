"""The search itself: from sensitivities to the smallest choice within a budget, on search rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_compress._search_solve import Costs, count, everything, nearby, path, smaller
from lepton_compress._search_verify import beyond_limits
from lepton_core.progress import show_board
from lepton_core.verdicts import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lepton_compress._search_measure import Meter, Point

EXHAUSTIVE = 256
"""Spaces of at most this many choices are measured whole."""

TRIALS = 200
"""Choices measured at most in larger spaces, beside the sensitivities."""

_AT_A_TIME = 8
_SHOWN = 6
_SLACK = 1e-9


@dataclass
class Finder:
    """One search on search rows.

    Attributes:
        meter: Measures choices.
        costs: What is predicted, by unit and precision.
        budget: Largest accepted loss of the metric; ``None`` for none.
        max_size: Largest accepted size in bytes; ``None`` for none.
        plain: Size of the float model; what is no smaller is not accepted.
        limits: Numeric limits.
        exhaustive: Size of spaces that are measured whole.
        trials: Choices measured at most in larger ones.
        points: Everything measured, by choice.
    """

    meter: Meter
    costs: Costs
    budget: float | None
    max_size: float | None
    plain: float = float("inf")
    limits: Limits = field(default_factory=Limits)
    exhaustive: int = EXHAUSTIVE
    trials: int = TRIALS
    points: dict[tuple[tuple[str, str], ...], Point] = field(default_factory=dict)
    spent: int = 0

    def run(self) -> Point | None:
        """Return the best choice; ``None`` if none meets what was asked for.

        With a budget, the smallest within it; else the one of least error within the size.
        """
        if count(self.costs) <= self.exhaustive:
            self.measure(list(everything(self.costs)), "measure every choice")
        else:
            self._along_path()
            self._refine()
        show_board(self.meter.reporter, "", (), ())
        return self.best()

    def best(self) -> Point | None:
        """Return the best choice measured so far."""
        fitting = [p for p in self.points.values() if self.accepts(p)]
        return min(fitting, key=self.rank, default=None)

    def accepts(self, point: Point) -> bool:
        """Tell whether a choice is within budget, size and numeric limits on these rows."""
        fits = self.max_size is None or point.size <= self.max_size
        return fits and point.size < self.plain and self.bears(point)

    def bears(self, point: Point) -> bool:
        """Tell whether a choice is within budget and numeric limits, whatever its size."""
        within = self.budget is None or point.drop <= self.budget + _SLACK
        return within and not beyond_limits(point, self.limits)

    def rank(self, point: Point) -> tuple[float, float]:
        """Return what is least for the best: size with a budget, else the error."""
        by_size = (float(point.size), point.error)
        return by_size if self.budget is not None else by_size[::-1]

    def pareto(self) -> list[Point]:
        """Return the choices that no other beats in size and error, from large to small."""
        found: list[Point] = []
        for point in sorted(self.points.values(), key=lambda p: (p.size, p.error)):
            if not found or point.error < found[-1].error:
                found.append(point)
        return found[::-1]

    def add(self, points: Iterable[Point]) -> None:
        """Take over what was measured before."""
        for point in points:
            self.points[_key(point.chosen)] = point

    # --- measuring ----------------------------------------------------------------------------

    def measure(self, choices: Sequence[Mapping[str, str]], title: str) -> list[Point]:
        """Return the measurements of choices; those that are known are not made again."""
        fresh = [c for c in choices if _key(c) not in self.points]
        fresh = list({_key(c): c for c in fresh}.values())
        if fresh:
            self.spent += len(fresh)
            self.add(self.meter.of_all(fresh, title))
            self._show(fresh)
        return [self.points[_key(c)] for c in choices]

    def _show(self, last: Sequence[Mapping[str, str]]) -> None:
        """Show the best choice so far and those measured last."""
        best = self.best()
        lines = [] if best is None else [("best so far", best)]
        lines += [("measured", self.points[_key(c)]) for c in last[-_SHOWN:]]
        rows = [
            (what, f"{p.size:,}", f"{p.error:.2e}", f"{p.drop:.4f}",
             "yes" if self.accepts(p) else "no", p.mix)
            for what, p in lines
        ]  # fmt: skip
        columns = ("", "bytes", "error", "loss", "within", "weights")
        show_board(self.meter.reporter, f"search: {len(self.points)} choices", columns, rows)

    def _along_path(self) -> None:
        """Look for the last choice of the path that is accepted, by halving it.

        Losses need not rise along the path, so the neighbours of the place found are tried, too.
        """
        way = path(self.costs)
        low, high = 0, len(way) - 1
        self.measure([way[low], way[high]], "search: ends of the path")
        while high - low > 1:
            middle = (low + high) // 2
            point = self.measure([way[middle]], "search: along the path")[0]
            if self._small_enough(point):
                low, high = (middle, high) if self.budget is not None else (low, middle)
            else:
                low, high = (low, middle) if self.budget is not None else (middle, high)
        near = way[max(0, low - 2) : high + 3]
        self.measure(near, "search: around the place found")

    def _small_enough(self, point: Point) -> bool:
        if self.budget is not None:
            return self.bears(point)
        return self.max_size is not None and point.size <= self.max_size

    def _refine(self) -> None:
        """Move from the best choice to better ones nearby as long as there are any."""
        best = self.best()
        while best is not None and self.spent < self.trials:
            fresh = (c for c in self._moves(best) if _key(c) not in self.points)
            nearby = list(itertools.islice(fresh, _AT_A_TIME + 1))
            if not nearby:
                return
            self.measure(nearby[:_AT_A_TIME], "search: refine")
            now = self.best()
            if now is None or self.rank(now) >= self.rank(best):
                if len(nearby) <= _AT_A_TIME or self._idle(best):
                    return
                continue
            best = now

    def _idle(self, best: Point) -> bool:
        """Tell whether enough moves around a choice were tried in vain."""
        changes = (
            sum(point.chosen[unit] != choice for unit, choice in best.chosen.items())
            for point in self.points.values()
        )
        return sum(0 < count <= 2 for count in changes) >= 6 * _AT_A_TIME

    def _moves(self, best: Point) -> Iterator[dict[str, str]]:
        if self.budget is not None:
            return smaller(self.costs, best.chosen)
        assert self.max_size is not None  # noqa: S101 - one of the two is given
        room = self.max_size - best.size
        return nearby(self.costs, best.chosen, lambda c: c.error < 0 and c.size <= room)


def _key(chosen: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(chosen.items()))


__all__ = ["EXHAUSTIVE", "TRIALS", "Finder"]
