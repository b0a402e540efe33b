"""What a compressed model gains over the float model of the same target: size and time.

The rule is to do no harm: what is neither smaller nor faster, beyond chance, on the runtime that is
to run it, has nothing for it, and every command that makes a compressed model says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_core.timing import LEAST_SPEEDUP, faster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Model, Target

ROWS = 16
"""Rows that calls are timed with, where there are more."""
NOT_ASKED = "it was not asked for"
INTERPRETED = "it is interpreted here in place of the device that it is for"


@dataclass(frozen=True, slots=True)
class Gain:
    """Two models of one target, measured.

    Attributes:
        before: Bytes of the float model's artifact.
        after: Bytes of the other.
        race: Calls of both in turns (:func:`lepton_core.timing.race`); empty if not timed.
        untimed: Why not; empty if it was.
        inputs: ``"samples"`` or ``"random"``: what the timed calls were given.
    """

    before: int
    after: int
    race: Mapping[str, Any] = field(default_factory=dict)
    untimed: str = ""
    inputs: str = "samples"

    @property
    def smaller(self) -> bool:
        """Whether the artifact has fewer bytes."""
        return self.after < self.before

    @property
    def faster(self) -> bool:
        """Whether calls are faster by more than chance explains."""
        return bool(faster(self.race))

    @property
    def slower(self) -> bool:
        """Whether calls are slower by more than chance explains."""
        return bool(self.race) and (
            self.race["interval"][1] < 1.0 and self.race["speedup"] <= 1 / LEAST_SPEEDUP
        )

    @property
    def any(self) -> bool:
        """Whether it is smaller or faster."""
        return self.smaller or self.faster

    @property
    def size_text(self) -> str:
        """The ratio of sizes in words."""
        if self.after == self.before:
            return "of the same size"
        large, little = max(self.before, self.after), min(self.before, self.after)
        ratio = large / little if little else float("inf")
        return f"{ratio:.2f}x {'smaller' if self.smaller else 'larger'}"

    @property
    def time_text(self) -> str:
        """The ratio of times in words, with its interval at 95 %; why there is none otherwise."""
        if not self.race:
            return f"not timed: {self.untimed or NOT_ASKED}"
        speedup, (low, high) = self.race["speedup"], self.race["interval"]
        if self.slower:
            ratio = f"{1 / speedup:.2f}x slower ({1 / high:.2f} to {1 / low:.2f}"
        else:
            word = "faster" if self.faster else "as fast, a difference of chance"
            ratio = f"{speedup:.2f}x {word} ({low:.2f} to {high:.2f}"
        return f"{ratio} at 95 %)"

    @property
    def text(self) -> str:
        """Both in a sentence."""
        word = "as" if self.after == self.before else "than"
        return f"{self.size_text} {word} the float model, {self.time_text}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: what the record of a result keeps as ``gain``."""
        timed = {k: self.race[k] for k in ("before_ms", "after_ms", "speedup")} if self.race else {}
        return {
            "size_bytes": {"before": self.before, "after": self.after},
            "size_ratio": self.before / self.after if self.after else None,
            "time": {**timed, "interval": list(self.race["interval"])} if self.race else None,
            "untimed": None if self.race else self.untimed,
            "inputs": self.inputs,
            "smaller": self.smaller,
            "faster": self.faster,
            "text": self.text,
        }


def gain_of(pair: tuple[Model, Model], race: Mapping[str, Any], untimed: str = "") -> Gain:
    """Return the gain of the second of two artifacts over the first, timed already.

    Args:
        pair: The float model and the other, each with its files in place.
        race: What :func:`lepton_core.timing.race` gave; empty if they were not timed.
        untimed: Why they were not; by default that this machine only interprets them.
    """
    from lepton_core.artifacts import artifact_size

    before, after = (artifact_size(one) for one in pair)
    return Gain(before, after, race, "" if race else untimed or INTERPRETED)


def measure_gain(
    hooks: Hooks,
    pair: tuple[Model, Model],
    target: Target,
    context: Context,
    *,
    samples: Samples | None = None,
    seconds: float = 0.0,
    threads: int | None = None,
) -> Gain:
    """Compare the sizes of two artifacts, and time them in turns where they run.

    Args:
        hooks: Opens the sessions, in the worker of the target's plugin if there is one.
        pair: The float model and the other.
        target: What both are for.
        context: A workdir of their own, progress and cancellation.
        samples: Inputs of the timed calls; noise that fits the signature if there are none.
        seconds: Time to spend, about; 0 for no timing.
        threads: Threads of the sessions.

    Returns:
        The gain. A model that this machine cannot run is not timed, and the reason recorded: it
        may be for another machine.
    """
    from dataclasses import replace

    from lepton_core.errors import LeptonError, OperationCancelledError, StorageError
    from lepton_core.evaluate import evaluate_isolated
    from lepton_core.types import EXECUTION_FACTS, EvaluateRequest

    if seconds <= 0:
        return gain_of(pair, {}, NOT_ASKED)
    kind = "random" if samples is None else "samples"
    try:
        folder = _saved(samples, pair, context)
        request = EvaluateRequest(
            target.id,
            str(folder),
            device=target.device,
            threads=threads,
            rival=pair[0],
            race_seconds=seconds,
            without=(EXECUTION_FACTS,),
        )
        found = evaluate_isolated(hooks, pair[1], request, context)
    except (OperationCancelledError, StorageError):
        raise
    except LeptonError as error:
        return replace(gain_of(pair, {}, f"{error.code}: {error.message}"), inputs=kind)
    return replace(gain_of(pair, found.race), inputs=kind)


def _saved(samples: Samples | None, pair: tuple[Model, Model], context: Context) -> Any:  # noqa: ANN401
    """Write the rows that calls are timed with; return their folder."""
    import numpy as np

    from lepton_core.errors import SampleError
    from lepton_core.samples import random_samples, save

    if samples is None:
        signature = next((m.signature for m in pair if m.signature is not None), None)
        if signature is None:
            raise SampleError(
                "LPT-DATA-013",
                "Random samples cannot be made for a model without a signature",
                remedy="Give real samples with --data.",
            )
        return save(random_samples(signature, ROWS, context.seed), context.workdir / "rows")
    few = samples.rows(np.arange(min(ROWS, len(samples))))
    return save(few, context.workdir / "rows")


def no_gain_warning(gain: Gain) -> str:
    """Return what to tell where nothing is gained; empty if something is."""
    if gain.any:
        return ""
    if not gain.race:
        return f"It is neither smaller nor known to be faster: {gain.text}."
    return (
        f"It is neither smaller nor faster here than the float model: {gain.size_text}, "
        f"{gain.time_text}. Keep that one, or ask for the precision auto with --data, which does."
    )


__all__ = ["INTERPRETED", "NOT_ASKED", "Gain", "gain_of", "measure_gain", "no_gain_warning"]
