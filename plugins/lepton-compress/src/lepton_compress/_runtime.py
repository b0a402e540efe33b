"""On which of the installed runtimes the forward passes of calibration run.

That is the one that ranks first for pivots, unless the user names another. Where much work is left
after the first batches, further batches run on each other target that opens pivots, and the rest on
the one that took least time for a row, with the values observed as outputs: a runtime that is
faster on the bare model may be slower with them. No batch is run twice for it; what it costs is
opening the sessions. Ranges of two runtimes differ by rounding alone.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lepton_core import memory
from lepton_core.context import Context
from lepton_core.environment import versions_of
from lepton_core.errors import LeptonError, OperationCancelledError, StorageError
from lepton_core.types import EXECUTION_FACTS, MEMORY_PLAN, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lepton_core.context import Session
    from lepton_core.dispatch import Hooks
    from lepton_core.types import Signature

AUTO, FASTEST = "auto", "fastest"
"""Try others where it is worth it; try them whatever is left."""

WORTH_SECONDS = 60.0
"""CPU seconds of forward passes that must be left for others to be tried."""

WORTH_OPENINGS = 40
"""So many times what opening the first session took must be left, too."""

MARGIN = 1.15
"""A runtime has to be this much faster to be taken: times that differ less would flap."""

_FINAL = (OperationCancelledError, StorageError)
"""Errors that say nothing about a runtime."""

_TIMED = 2
"""Batches timed on each; the quicker one counts, as the first makes its memory."""


@dataclass
class Runtimes:
    """Which runtime the forward passes of one job run on.

    Attributes:
        asked: :data:`AUTO`, :data:`FASTEST` or the id of a target.
        owner: The plugin that runs them; empty until something was opened.
        trials: Each runtime that was tried, JSON types.
        decided: Whether the choice stands.
    """

    asked: str = AUTO
    owner: str = ""
    trials: list[dict[str, Any]] = field(default_factory=list)
    decided: bool = False

    @property
    def named(self) -> bool:
        """Whether the user named one."""
        return self.asked not in (AUTO, FASTEST)

    def usual(self, hooks: Hooks) -> str:
        """Return the plugin to take if nothing speaks for another."""
        return self.asked if self.named else hooks.reference_owner("pivot")

    def first(self, hooks: Hooks) -> str:
        """Return the plugin to start with."""
        if not self.owner:
            self.owner = self.usual(hooks)
            self.decided = self.decided or self.named
        return self.owner

    def pass_over(self, owner: str, error: LeptonError) -> None:
        """Record that a runtime that nobody named cannot do it."""
        self.trials.append({"runtime": owner, "problem": f"{error.code}: {error.message}"})

    def name(self, hooks: Hooks) -> str:
        """Return the runtime with its version; empty if nothing was opened."""
        return versioned(hooks, self.owner) if self.owner else ""

    def facts(self, hooks: Hooks) -> dict[str, Any]:
        """Return what the record of a result says, JSON types."""
        return {"runtime": self.name(hooks), "asked": self.asked, "trials": self.trials}


@dataclass(frozen=True)
class Scratch(Context):
    """The scratch folder of a job, or a folder of it, with the choice for all observed in them.

    Attributes:
        runtimes: The choice; by default the runtime that ranks first, whatever else is installed.
    """

    runtimes: Runtimes = field(default_factory=lambda: Runtimes(decided=True))

    @classmethod
    def of(cls, context: Context, workdir: Path, asked: str = AUTO) -> Scratch:
        """Return a folder with the surroundings of *context* and a choice of its own."""
        around = {f.name: getattr(context, f.name) for f in fields(Context)}
        return cls(**{**around, "workdir": workdir}, runtimes=Runtimes(asked))


def runtimes_of(context: Context) -> Runtimes:
    """Return the choice that holds for a folder; a new one for nothing else if none does."""
    return context.runtimes if isinstance(context, Scratch) else Runtimes(decided=True)


def versioned(hooks: Hooks, owner: str) -> str:
    """Return a plugin's runtime with its version."""
    info = hooks.registry.info(owner)
    found = versions_of(*(name for backend in info.backends for name in backend.distributions))
    return ", ".join(f"{name} {version}" for name, version in found.items()) or info.title


def candidates(hooks: Hooks) -> list[str]:
    """Return the targets that open pivots and can be used here."""
    found = []
    for name, info in hooks.registry.targets().items():
        if info.opens_format("pivot") is not None:
            with contextlib.suppress(LeptonError):
                hooks.registry.require(name)
                found.append(name)
    return found


class Watched:
    """A session over a tapped pivot that may move to a faster runtime between two batches.

    Args:
        opened: Opens the pivot on a plugin's runtime.
        runtimes: The choice of the job.
        hooks: Knows what is installed.
        context: Says which runtime is taken.
        rows: Rows that will be run, about; 0 leaves the choice as it is.
    """

    def __init__(
        self, opened: Callable[[str], Session], runtimes: Runtimes, context: Context, rows: float
    ) -> None:
        if context.hooks is None:
            msg = "calibration needs a context with hooks"
            raise ValueError(msg)
        self._open = opened
        self._runtimes = runtimes
        self._context = context
        self._hooks = context.hooks
        self._rows = rows
        self._done = 0.0
        self._left: list[str] = []
        self._times: dict[str, list[float]] = {}
        self._work: list[float] = []
        self._opened: dict[str, float] = {}
        self._usual = runtimes.usual(self._hooks)
        self._now = runtimes.first(self._hooks)
        try:
            self._session = self._start(self._now)
        except LeptonError as error:
            self._may_go_back(error)
            self._session = self._start(self._now)
        self._asking = rows > 0 and not runtimes.decided

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        return self._session.signature

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run one batch; where a runtime that nobody named fails, on the one that ranks first."""
        began, work = time.perf_counter(), time.process_time()
        try:
            found = self._session.run(inputs)
        except LeptonError as error:
            self._may_go_back(error)
            self._move(self._now)
            if self._asking:
                self._go_on()
            return self.run(inputs)
        if self._asking:
            rows = next((len(a) for a in inputs.values() if getattr(a, "ndim", 0)), 1)
            self._done += rows
            seconds = (time.perf_counter() - began) / max(rows, 1)
            self._times.setdefault(self._now, []).append(seconds)
            self._work.append((time.process_time() - work) / max(rows, 1))
            if len(self._times[self._now]) >= _TIMED:
                self._next()
        return found

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def _start(self, owner: str) -> Session:
        began = time.process_time()
        session = self._open(owner)
        self._opened[owner] = time.process_time() - began
        return session

    def _may_go_back(self, error: LeptonError) -> None:
        """Pass the runtime of now over for the one that ranks first, or raise *error*."""
        if self._now == self._usual or isinstance(error, _FINAL):
            raise error
        self._runtimes.pass_over(self._now, error)
        self._times.pop(self._now, None)
        self._now = self._runtimes.owner = self._usual

    def _next(self) -> None:
        """Go on to the next runtime to try, or decide."""
        if len(self._times) == 1:
            if not self._worth():
                # Another, larger piece of work may still ask.
                self._asking = False
                return
            self._left = [n for n in candidates(self._hooks) if n not in self._times]
        self._go_on()

    def _go_on(self) -> None:
        """Try what is left, or decide."""
        while self._left:
            owner = self._left.pop(0)
            try:
                self._move(owner)
            except _FINAL:
                raise
            except LeptonError as error:
                self._runtimes.pass_over(owner, error)
                self._move(self._now)
            else:
                return
        self._decide()

    def _worth(self) -> bool:
        if self._runtimes.asked == FASTEST:
            return True
        if self._context.limits.memory_bytes is not None:
            return False  # a second runtime takes memory of its own
        # In CPU seconds: what else the machine does is no reason to open more.
        left = max(self._rows - self._done, 0) * min(self._work)
        return left > max(WORTH_SECONDS, WORTH_OPENINGS * self._opened[self._now])

    def _move(self, owner: str) -> None:
        self._session.close()
        memory.trim()
        self._session = self._start(owner)
        self._now = owner

    def _decide(self) -> None:
        """Take the runtime of the quickest batch, the first one where it is about as quick."""
        runtimes, first = self._runtimes, next(iter(self._times))
        best = {owner: min(times) for owner, times in self._times.items()}
        quickest = min(best, key=lambda owner: best[owner])
        taken = quickest if best[first] >= MARGIN * best[quickest] else first
        runtimes.trials += [
            {"runtime": versioned(self._hooks, owner), "seconds_per_row": seconds,
             "open_seconds": round(self._opened[owner], 3)}
            for owner, seconds in best.items()
        ]  # fmt: skip
        self._asking, runtimes.decided, runtimes.owner = False, True, taken
        if taken != self._now:
            self._move(taken)
        if taken != first:
            ratio = best[first] / best[taken]
            name = versioned(self._hooks, taken)
            self._context.reporter.note(
                f"forward passes go on with {name}: {ratio:.2f}x faster here than {first}"
            )


def opening(owner: str, threads: int | None) -> OpenRequest:
    """Return the request for a session that is opened to observe values."""
    return OpenRequest(owner, threads=threads, without=(EXECUTION_FACTS, MEMORY_PLAN))


__all__ = [
    "AUTO",
    "FASTEST",
    "Runtimes",
    "Scratch",
    "Watched",
    "candidates",
    "opening",
    "runtimes_of",
    "versioned",
]  # fmt: skip
