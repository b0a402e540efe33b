"""The search itself: measure every value, find the first that parts, and who made it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core import recipe as recipes
from lepton_core.bisecting._hints import hint_for
from lepton_core.bisecting._inside import TOLERANCE, Inside, artifact_of
from lepton_core.bisecting._plan import Tap, ancestors, groups, plan_taps
from lepton_core.bisecting._run import Runner
from lepton_core.bisecting._sides import require_same_pivot, side_of, yardstick_of
from lepton_core.bisecting._types import FLOOR, Bisection, Parting
from lepton_core.errors import LeptonError, OperationCancelledError, StorageError, UsageError
from lepton_core.origins import LOCATIONS
from lepton_core.samples import load_samples, match
from lepton_core.types import InspectRequest
from lepton_core.verdicts import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_core.bisecting._run import Errors
    from lepton_core.bisecting._types import Side
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples

ROWS = 64
BATCH = 32
_CONTRIBUTORS = 5


def bisect(
    first: str,
    second: str | None,
    samples: str,
    *,
    hooks: Hooks,
    context: Context,
    tolerance: float | None = None,
    rows: int = ROWS,
    threads: int | None = None,
) -> Bisection:
    """Find the first value at which two variants of one pivot part.

    An artifact that is not what was built, or whose pivot is gone, is looked into as it is, where
    its target's sessions can: see :mod:`lepton_core.bisecting._inside`.

    Args:
        first: A variant: an artifact that lepton built, its directory, its passport. It is the
            measure.
        second: The other one; ``None`` compares *first* with its own pivot, run as the yardstick.
        samples: Inputs, as for ``lepton port``.
        hooks: Calls the plugins.
        context: Scratch space, progress, cancellation.
        tolerance: Largest relative L2 error of a value that does not count; by default the looser
            limit of the two precisions (``Limits`` in :mod:`lepton_core.verdicts`).
        rows: Samples to run, spread evenly over those given.
        threads: Threads of each session.

    Raises:
        UsageError: LPT-BIS-001 … 004 a variant cannot be lowered again, LPT-BIS-005 the pivot has
            no float values, LPT-BIS-006, 007 there is nothing to compare an artifact's own
            values with.
        SampleError: The samples do not fit.
        ConversionError, SessionError: The tapped pivot cannot be lowered or run.
    """
    named = [text for text in (second, first) if text is not None]
    looked = [artifact_of(text, hooks) for text in named]
    inside = Inside(hooks, context, TOLERANCE if tolerance is None else tolerance, threads)
    for odd, other in zip(looked, [*named[1:], *named[:1]], strict=True):
        if odd is not None and odd.strange:
            return inside.compare(odd, other if len(named) > 1 else None, samples, rows)
    one, two = side_of(first), None if second is None else side_of(second)
    one, two = (yardstick_of(one), one) if two is None else (one, two)
    require_same_pivot(one, two)
    limit = tolerance if tolerance is not None else _tolerance(one, two)
    known = hooks.inspect(
        one.pivot.evolve(format="onnx"), InspectRequest(operators=False, values=True), context
    )
    taps = plan_taps(known.values, [_recipe(side) for side in (one, two)])
    if not taps:
        raise UsageError(
            "LPT-BIS-005",
            f"The pivot of {first!r} has no float values that depend on its inputs",
            remedy="There is nothing to compare; compare the outputs with `lepton verify`.",
        )
    used = chosen_rows(samples, known.model.signature or one.pivot.signature, rows)
    outputs = [tap.use.name for tap in taps if tap.use.output]
    runner = Runner(hooks, context, one, two, used, threads, BATCH, outputs=outputs)
    signature = known.model.signature or one.pivot.signature
    others = [o.name for o in signature.outputs if o.name not in outputs] if signature else []
    found = _Search(runner, taps, limit, others).run()
    # An artifact that computes something else than its pivot, lowered again, errs itself.
    for artifact in looked:
        if artifact is not None and runner.changed.get(artifact.name, 0.0) > limit:
            return _looked_into(found, inside.compare(artifact, None, samples, rows))
    return found


def _looked_into(found: Bisection, inside: Bisection) -> Bisection:
    """Add what was found inside of an artifact to what was found on its pivot."""
    if inside.parted is None and not inside.differences:
        return found
    place = inside.culprit or inside.parted
    note = f"{inside.second.name} is not what its pivot gives when it is lowered again"
    if place is not None:
        note += f": the first value of its own that errs is {place.value} ({place.operator})"
    return replace(found, differences=inside.differences, notes=(*found.notes, f"{note}."))


def _tolerance(*sides: Side) -> float:
    limits = Limits()
    return max(limits.of(side.precision).rel_l2 for side in sides)


def _recipe(side: Side) -> recipes.Recipe | None:
    return None if side.recipe is None else recipes.read(side.recipe)


def chosen_rows(path: str, signature: Any, count: int) -> Samples:  # noqa: ANN401 - a Signature
    """Return some of the samples, spread evenly."""
    given = match(load_samples(path), signature)
    if len(given) <= count:
        return given
    return given.rows(np.linspace(0, len(given) - 1, count).astype(np.int64))


class _Search:
    def __init__(
        self, runner: Runner, taps: tuple[Tap, ...], tolerance: float, uncompared: Sequence[str]
    ) -> None:
        self._runner = runner
        self._uncompared = uncompared
        self._taps = taps
        self._limit = tolerance
        self._notes: list[str] = []
        self._found: dict[str, Parting] = {}
        self._recipe = _recipe(runner.second)

    def run(self) -> Bisection:
        faithful = self._measure()
        parted = self._first()
        culprit: Parting | None = None
        contributors: tuple[Parting, ...] = ()
        if parted is not None:
            culprit, contributors = self._blame(parted)
        outputs = [self._found[t.use.name] for t in self._taps if t.use.output]
        outputs_part = any(self._parts(one) for one in outputs)
        if self._uncompared:
            self._notes.append(
                "These outputs are no floats, or not comparable, and are left out: "
                f"{', '.join(self._uncompared)}."
            )
        elif parted is not None and not outputs_part:
            self._notes.append(
                "Every output is within the tolerance: what parts inside does not reach them."
            )
        runner = self._runner
        return Bisection(
            runner.first, runner.second, self._limit, len(runner.samples),
            tuple(self._found.values()), parted and self._found[parted.value], culprit,
            contributors, outputs_part, faithful, tuple(self._notes),
        )  # fmt: skip

    # --- errors of everything -----------------------------------------------------------------

    def _measure(self) -> float | None:
        """Fill in the error of every value; return what tapping changed, if that was compared."""
        runner = self._runner
        parts = groups(self._taps, min(BATCH, len(runner.samples)))
        bar = runner.context.reporter.task(f"compare {len(self._taps)} values", len(self._taps))
        for group in parts:
            for tap, errors in zip(group, runner.errors(group).values(), strict=True):
                self._found[tap.use.name] = self._parting(tap, errors)
            bar.advance(len(group))
        bar.finish()
        for side in dict.fromkeys((runner.first.name, runner.second.name)):
            found = runner.changed.get(side, 0.0)
            if found > self._limit:
                self._notes.append(
                    f"With taps, {side} computes something else than the artifact does "
                    f"(relative L2 {found:.2g}): the runtime fuses operators, and what is shown "
                    "may not be what the artifact does."
                )
        return max(runner.changed.values(), default=None)

    def _parting(self, tap: Tap, errors: Errors) -> Parting:
        found = errors.result()
        place = self._runner.first.pivot.metadata.get(LOCATIONS, {}).get(tap.use.node, "")
        return Parting(
            tap.use.name, tap.use.operator, tap.use.node, place, float(found.rel_l2),
            float(found.max_abs), float(found.cosine), errors.largest,
            hint=hint_for(
                tap.use.name, found, errors.largest, self._runner.second.precision, self._recipe,
                exact=str(self._runner.facts.get("integers", "")).startswith("exact"),
            ),
        )  # fmt: skip

    def _parts(self, one: Parting) -> bool:
        return one.error > self._limit and one.max_abs > FLOOR

    def _first(self) -> Parting | None:
        """Return the first value that parts and from which parting values lead to an output.

        If no output parts, the first value that does at all.
        """
        bad = {name for name, one in self._found.items() if self._parts(one)}
        leading = {t.use.name for t in self._taps if t.use.output and t.use.name in bad}
        for tap in reversed(self._taps):
            if tap.use.name in leading:
                leading |= set(tap.reads) & bad
        chosen = leading or bad
        return next((one for name, one in self._found.items() if name in chosen), None)

    # --- who made it --------------------------------------------------------------------------

    def _blame(self, parted: Parting) -> tuple[Parting | None, tuple[Parting, ...]]:
        """Measure own errors on the way to *parted*; return the culprit and the largest."""
        runner = self._runner
        way = ancestors(self._taps, parted.value)
        cuts = [tap.use.name for tap in self._taps]
        parts = groups(way, min(BATCH, len(runner.samples)), with_reads=True)
        bar = runner.context.reporter.task(f"feed {len(way)} operators", len(way))
        for group in parts:
            self._own(group, cuts)
            bar.advance(len(group))
        bar.finish()
        measured = [self._found[tap.use.name] for tap in way]
        measured = [one for one in measured if one.own is not None]
        guilty = [o for o in measured if (o.own or 0) > self._limit]
        largest = sorted(measured, key=lambda one: -(one.own or 0.0))[:_CONTRIBUTORS]
        return (guilty[0] if guilty else None), tuple(largest)

    def _own(self, group: Sequence[Tap], cuts: list[str]) -> None:
        try:
            found = self._runner.own_errors(group, cuts)
        except (OperationCancelledError, StorageError):
            raise
        except LeptonError as error:
            names = ", ".join(tap.use.name for tap in group[:3])
            self._notes.append(
                f"Operators alone could not be run for {len(group)} values ({names}, …): "
                f"{error.code} {error.message}"
            )
            return
        for name, errors in found.items():
            self._found[name] = replace(self._found[name], own=float(errors.result().rel_l2))


__all__ = ["BATCH", "ROWS", "bisect", "chosen_rows"]
