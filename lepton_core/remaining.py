"""Remaining time over a whole run: from what its steps took so far to what is still to come.

Work is told beforehand as steps, each with how much of it there is. Bars, which the code that does
the work draws anyway, say how far it is: a bar belongs to the step whose name its description
begins with. A step that was measured goes on at its own pace; one that was not, at that of work of
the same kind; one of which nothing is known, at a guess if there is one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.progress import show_remaining

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_core.context import ProgressTask, Reporter

_EVERY_SECONDS = 0.5
"""How often an estimate is shown anew."""


@dataclass(frozen=True, slots=True)
class Step:
    """Work that is to come.

    Attributes:
        name: What descriptions of its bars begin with.
        units: How much of it there is, in the totals of its bars.
        kind: Steps of one kind take time in proportion to *cost*; empty for none like it.
        cost: Of a unit, against other steps of the kind.
        seconds: A guess of what a unit takes, if nothing can be measured before.
        may_grow: Whether there may be more of it than *units*.
    """

    name: str
    units: float
    kind: str = ""
    cost: float = 1.0
    seconds: float | None = None
    may_grow: bool = False


@dataclass
class _State:
    step: Step
    units: float
    done: float = 0.0
    spent: float = 0.0
    over: bool = False

    @property
    def pace(self) -> float | None:
        """Seconds of a unit, as measured."""
        return self.spent / self.done if self.done > 0 else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left.

    Attributes:
        seconds: Of the work whose pace is known; ``None`` if of none.
        whole: Whether that is all that is to come.
        share: Share of the time that is over, 0 to 1.
    """

    seconds: float | None
    whole: bool
    share: float


class Remaining:
    """A reporter that passes everything on, and tells another how much time is left.

    Bars that no step announces are passed on, too, and count for nothing; so do bars inside the bar
    of a step, whose time is the step's. When a bar of a later step starts, the steps before it are
    over.

    Args:
        reporter: Where progress goes.
        clock: Seconds that only rise.
    """

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._states: list[_State] = []
        self._began = clock()
        self._shown = -_EVERY_SECONDS
        self._running: _StepTask | None = None
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what the reporter has beside
        return getattr(self._reporter, name)

    def expect(self, steps: Iterable[Step]) -> None:
        """Announce steps, in their order, behind those that were begun; others are forgotten."""
        with self._lock:
            begun = [s for s in self._states if s.over or s.done > 0 or self._is_running(s)]
            for state in begun:
                state.over = not self._is_running(state)
            self._states = begun + [_State(step, step.units) for step in steps]
            self._show(at_once=True)

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a bar."""
        inner = self._reporter.task(description, total)
        with self._lock:
            at = self._index_of(description)
            if at is None or self._running is not None:
                return inner
            for state in self._states[:at]:
                state.over = True
            state = self._states[at]
            state.over = False
            state.units = max(state.units, state.done + (total or 0.0))
            self._running = _StepTask(self, inner, state, self._clock())
            self._show()
            return self._running

    def note(self, text: str) -> None:
        """Pass *text* on."""
        self._reporter.note(text)

    def warn(self, text: str) -> None:
        """Pass *text* on."""
        self._reporter.warn(text)

    def estimate(self) -> Estimate:
        """Return what is left."""
        with self._lock:
            known, whole, left = False, True, 0.0
            for state in self._states:
                if state.over:
                    continue
                pace = self._pace(state)
                units = max(state.units - state.done, 0.0)
                whole &= not state.step.may_grow and (pace is not None or units == 0)
                if pace is not None:
                    known, left = True, left + units * pace
            if self._running is not None and self._running.state.done:
                since = self._clock() - self._running.last
                left = max(left - since, 0.0)
            gone = max(self._clock() - self._began, 1e-9)
            return Estimate(left if known else None, whole, gone / (gone + left))

    def close(self) -> None:
        """Take the remaining time down."""
        with self._lock:
            self._states = []
        show_remaining(self._reporter, None)

    def __enter__(self) -> Remaining:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_running(self, state: _State) -> bool:
        return self._running is not None and self._running.state is state

    def _index_of(self, description: str) -> int | None:
        """Return the step of a bar: the first that is not over, else one that seemed to be."""
        found = [i for i, s in enumerate(self._states) if description.startswith(s.step.name)]
        return next((i for i in found if not self._states[i].over), found[-1] if found else None)

    def _pace(self, state: _State) -> float | None:
        if state.pace is not None:
            return state.pace
        kin = [
            s for s in self._states if s.done > 0 and s.step.kind and s.step.kind == state.step.kind
        ]
        if kin:
            cost = sum(s.done * s.step.cost for s in kin)
            return state.step.cost * sum(s.spent for s in kin) / cost
        return state.step.seconds

    def _show(self, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and now - self._shown < _EVERY_SECONDS:
            return
        self._shown = now
        found = self.estimate()
        if found.seconds is not None:
            show_remaining(self._reporter, found.seconds, found.share, whole=found.whole)

    def _ended(self, task: _StepTask) -> None:
        with self._lock:
            if self._running is task:
                self._running = None
            self._show()


class _StepTask:
    """A bar of a step."""

    def __init__(self, owner: Remaining, inner: ProgressTask, state: _State, began: float) -> None:
        self._owner = owner
        self._inner = inner
        self.state = state
        self.last = began

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar."""
        self._inner.advance(amount)
        owner = self._owner
        with owner._lock:
            now = owner._clock()
            self.state.done += amount
            self.state.spent += now - self.last
            self.last = now
            owner._show()

    def finish(self, note: str = "") -> None:
        """Complete the bar."""
        self._inner.finish(note)
        self._owner._ended(self)


def expect(reporter: Reporter, steps: Iterable[Step]) -> None:
    """Announce steps to a reporter that tells the remaining time; others are left alone."""
    announce = getattr(reporter, "expect", None)
    if announce is not None:
        announce(steps)


__all__ = ["Estimate", "Remaining", "Step", "expect"]
