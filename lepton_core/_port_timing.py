"""The part of the main job that times the source and its variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.errors import LeptonError, OperationCancelledError, StorageError
from lepton_core.evaluate import evaluate_isolated
from lepton_core.gains import INTERPRETED, NOT_ASKED
from lepton_core.types import EvaluateRequest
from lepton_core.verdicts import precision_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_core._port_parts import Built
    from lepton_core._proof import Yardstick
    from lepton_core.context import Context, Reporter
    from lepton_core.dispatch import Hooks
    from lepton_core.types import EvaluateResult, Model, Target

FATAL = (OperationCancelledError, StorageError)
"""What ends a run, whatever else could still be built."""
_ROUNDS = 2


class Timer:
    """Times one model after the other, and compressed ones in turns with the fp32 variant.

    Args:
        hooks: Runs models in the workers of their plugins.
        seconds: Time for each model and round; 0 measures nothing.
        threads: Threads of the sessions.
        reporter: Progress.
        context: Makes the context of one run.
    """

    def __init__(
        self,
        hooks: Hooks,
        seconds: float,
        threads: int | None,
        reporter: Reporter,
        context: Callable[[], Context],
    ) -> None:
        self._hooks = hooks
        self._seconds = seconds
        self._threads = threads
        self._reporter = reporter
        self._context = context

    def run(self, yardstick: Yardstick, built: Sequence[Built]) -> None:
        """Write ``latency`` (the best of interleaved rounds) and ``race`` into what was built.

        What does not run has the reason as its ``error``, what has no race as ``untimed``.
        """
        ready = [one for one in built if one.model is not None and one.error is None]
        if self._seconds <= 0 or not ready:
            for one in ready:
                one.untimed = NOT_ASKED
            return
        bar = self._reporter.task("time", _ROUNDS * (len(ready) + 1) + len(ready))
        for _ in range(_ROUNDS):
            assert yardstick.model is not None  # noqa: S101 - only what was built is timed
            timed = self._time(yardstick, yardstick.owner, yardstick.model).latency
            yardstick.latency = _better(yardstick.latency, dict(timed))
            bar.advance()
            for one in ready:
                self._one(yardstick, one)
                bar.advance()
        for one in ready:
            self._race(yardstick, one, ready)
            bar.advance()
        bar.finish()

    def _one(self, yardstick: Yardstick, one: Built) -> None:
        if one.model is None or one.error is not None:
            return
        try:
            timed = self._time(yardstick, one.target.id, one.model, one.target)
        except FATAL:
            raise
        except LeptonError as error:
            one.error = error
        else:
            one.latency = _better(one.latency, dict(timed.latency))

    def _race(self, yardstick: Yardstick, one: Built, ready: Sequence[Built]) -> None:
        """Time a compressed variant in turns with what it would replace."""
        plain = plain_of(one, ready)
        if plain is None or plain.model is None or one.model is None or one.error is not None:
            return
        try:
            found = self._time(yardstick, one.target.id, one.model, one.target, plain.model)
        except FATAL:
            raise
        except LeptonError as error:  # both fit alone: the variant stays, and is not called faster
            self._reporter.warn(f"{one.target} {one.precision} was not timed beside fp32: {error}")
            one.untimed = f"{error.code}: {error.message}"
        else:
            one.race = dict(found.race)
            one.untimed = "" if one.race else INTERPRETED

    def _time(
        self,
        yardstick: Yardstick,
        owner: str,
        model: Model,
        target: Target | None = None,
        rival: Model | None = None,
    ) -> EvaluateResult:
        request = EvaluateRequest(
            owner,
            str(yardstick.folder),
            device=None if target is None else target.device,
            threads=self._threads,
            latency_seconds=self._seconds if rival is None else 0.0,
            rival=rival,
        )
        return evaluate_isolated(self._hooks, model, request, self._context())


def plain_of(one: Built, built: Sequence[Built]) -> Built | None:
    """Return the fp32 variant of the same target; ``None`` for one that is fp32 itself."""
    if precision_class(one.precision) == "fp32":
        return None
    same = (o for o in built if o.target == one.target)
    return next((o for o in same if precision_class(o.precision) == "fp32"), None)


def _better(old: dict[str, float] | None, new: dict[str, float]) -> dict[str, float] | None:
    """Return the round that was disturbed less; nothing where time says nothing."""
    if not new:
        return old
    return new if old is None or new["p50_ms"] < old["p50_ms"] else old


__all__ = ["FATAL", "Timer", "plain_of"]
