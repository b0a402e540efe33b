"""Looking into an artifact that is not what was built: its own values, one by one.

Bisecting lowers pivots again, so it never sees what happened to a file afterwards. Where a target's
sessions show the inner values of an artifact (:class:`lepton_core.context.InnerSession`), that file
is compared with a sound one: the other artifact if it was built in the same way, else its pivot,
lowered again in that way.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lepton_core.artifacts import verify_artifact
from lepton_core.bisecting._run import Errors
from lepton_core.bisecting._sides import recipe_of, require_same_pivot, side_of
from lepton_core.bisecting._types import Bisection, Parting, Side
from lepton_core.capabilities import INNER
from lepton_core.conversion import options_asked
from lepton_core.errors import LeptonError, SessionError, UsageError
from lepton_core.types import ConvertRequest, Model, OpenRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lepton_core.context import Context, InnerSession
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Signature

    Arrays = Mapping[str, np.ndarray[Any, Any]]

ROWS_AT_ONCE = 8
"""Rows of one run: every value of both sides is held."""
TOLERANCE = 1e-6
"""Two artifacts of one lowering differ in nothing."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact whose sessions show inner values.

    Attributes:
        name: As the user named it.
        model: The artifact, with the digest that was recorded, if any.
        target: Its target.
        precision: Its precision, empty if nothing says so.
        strange: Why it is not what was built; empty for one that is, and has its pivot.
    """

    name: str
    model: Model
    target: Target
    precision: str
    strange: str


def artifact_of(text: str, hooks: Hooks) -> Artifact | None:
    """Return what a path names, if it is an artifact whose sessions show inner values."""
    from lepton_core.built import find_built

    try:
        built = find_built(text)
    except UsageError:  # a variant that was not kept has nothing to look into
        return None
    if built is None:
        return _bare(text, hooks)
    target = Target.parse(built.target) if built.target else None
    if target is None or not _shows(hooks, target.id) or not Path(built.model.path).exists():
        return None
    precision = str(built.model.metadata.get("precision") or built.precision)
    return Artifact(text, built.model, target, precision, _strange(built.model))


def _bare(text: str, hooks: Hooks) -> Artifact | None:
    path = Path(text).expanduser()
    for name, info in hooks.registry.infos().items():
        for opens in info.opens:
            if path.suffix.lower() in opens.suffixes and path.exists() and _shows(hooks, name):
                model = Model(opens.format, str(path.resolve()))
                return Artifact(text, model, Target(name), "", "it stands there without its card")
    return None


def _shows(hooks: Hooks, target: str) -> bool:
    known = hooks.registry.infos().get(target)
    return known is not None and bool(known.capability(INNER).support)


def _strange(model: Model) -> str:
    from lepton_core.origins import find_origin

    try:
        verify_artifact(model)
    except SessionError as error:
        return error.cause or error.message
    origin = find_origin(model)
    return "" if origin is not None and origin.format == "pivot" else "its pivot is not beside it"


# --- against what -------------------------------------------------------------------------------


@dataclass
class Inside:
    """Compares an artifact with a sound one.

    Attributes:
        hooks: Calls the plugins.
        context: Scratch space, progress, cancellation.
        tolerance: Largest relative L2 error that does not count.
        threads: Threads of each session.
    """

    hooks: Hooks
    context: Context
    tolerance: float
    threads: int | None = None

    def compare(self, odd: Artifact, other: str | None, samples: str, rows: int) -> Bisection:
        """Compare an artifact, value by value.

        Args:
            odd: The artifact.
            other: What the user named beside it, if anything.
            samples: Inputs.
            rows: How many of them to run.

        Raises:
            UsageError: LPT-BIS-001 … 003, the other one cannot be lowered again; 004, both were
                lowered from different pivots; 006, there is nothing to compare it with; 007, their
                inputs or outputs have other names.
            SessionError: One of them cannot be opened at all.
        """
        from lepton_core.bisecting._find import chosen_rows

        sound, side = self._sound(odd, other)
        with self._opened(sound, odd.target) as one, self._opened(odd.model, odd.target) as two:
            _require_same_names(side.name, one.signature, odd.name, two.signature)
            used = chosen_rows(samples, one.signature, rows)
            measured = _Values(one, two, self.context)
            values = measured.run(used)
            if not values:
                raise _nothing(odd, f"no value of {side.name!r} has its name there")
            differences = tuple(two.differences(one))
        again = side.artifact is None
        first = replace(
            side, name="the pivot, lowered again" if again else side.name, artifact=sound
        )
        second = replace(first, name=odd.name, artifact=odd.model)
        bad = [one for one in values if one.error > self.tolerance]
        largest = sorted(values, key=lambda one: -(one.own or 0.0))[:5]
        return Bisection(
            first, second, self.tolerance, len(used), tuple(values), bad[0] if bad else None,
            next((one for one in values if (one.own or 0.0) > self.tolerance), None),
            tuple(largest) if bad else (), measured.output_error > self.tolerance, None,
            tuple(_notes(odd, bool(bad), differences, measured)), differences, inside=True,
        )  # fmt: skip

    def _sound(self, odd: Artifact, other: str | None) -> tuple[Model, Side]:
        """Return a sound artifact to compare with, and what is known of it.

        The side has no artifact where the pivot was lowered again.
        """
        own, beside, theirs = _known_side(odd.name), None, None
        if other is not None:
            beside = artifact_of(other, self.hooks)
            theirs = side_of(other) if beside is None else _known_side(other)
        if own is not None and theirs is not None:
            require_same_pivot(theirs, own)
        if beside is not None and _built_alike(odd, beside):
            none = Model("pivot", "")
            side = Side(beside.name, beside.target, beside.precision, none, artifact=beside.model)
            return beside.model, side
        source = replace(own, artifact=None) if own is not None else self._as_built(odd, theirs)
        if source is None:
            raise _nothing(
                odd,
                f"{odd.strange or 'its pivot is not known'}; what it was lowered from, and "
                "another artifact of its target and precision, are not named either",
            )
        return self._lowered(odd, source), source

    def _as_built(self, odd: Artifact, theirs: Side | None) -> Side | None:
        """Return how to lower the other side's pivot as an artifact says it was built."""
        if theirs is None:
            return None
        precision = odd.precision or self._stored(odd)
        recipe = recipe_of(odd.name, odd.model) if odd.model.metadata.get("recipe") else None
        if precision not in self.hooks.registry.target(odd.target.id).precisions and recipe is None:
            return None  # a recipe says what its integers are, and it is not known
        options = options_asked(odd.model)
        return Side(odd.name, odd.target, precision, theirs.pivot, recipe, options=options)

    def _stored(self, odd: Artifact) -> str:
        with self._opened(odd.model, odd.target) as session:
            return str(session.facts.get("storage_precision", ""))

    def _lowered(self, odd: Artifact, side: Side) -> Model:
        folder = self.context.workdir / "sound"
        folder.mkdir()
        asked = ConvertRequest(
            odd.target.id,
            precision="fp32" if side.recipe else side.precision,
            device=odd.target.device,
            recipe=side.recipe,
            options=side.options,
        )
        return self.hooks.convert(side.pivot, asked, replace(self.context, workdir=folder)).model

    @contextlib.contextmanager
    def _opened(self, model: Model, target: Target) -> Iterator[InnerSession]:
        folder = self.context.workdir / f"inner-{len(list(self.context.workdir.iterdir()))}"
        folder.mkdir()
        request = OpenRequest(
            target.id, target.device, self.threads, reference=True, options={"unverified": True}
        )
        place = replace(self.context, workdir=folder)
        with self.hooks.open(model.evolve(digest=""), request, place) as session:
            yield cast("InnerSession", session)


def _built_alike(odd: Artifact, beside: Artifact) -> bool:
    """Tell whether two artifacts would be the same, as far as the card of the odd one says."""
    if odd.target.id != beside.target.id or odd.precision not in ("", beside.precision):
        return False
    one, two = ((a.target.device, _recipe_digest(a.model), options_asked(a.model))
                for a in (odd, beside))  # fmt: skip
    return not odd.precision or one == two


def _recipe_digest(model: Model) -> str:
    return str((model.metadata.get("recipe") or {}).get("digest", ""))


def _known_side(text: str) -> Side | None:
    """Return how a variant was lowered, ``None`` where nothing says so."""
    try:
        return side_of(text)
    except LeptonError:
        return None


def _nothing(odd: Artifact, cause: str) -> UsageError:
    return UsageError(
        "LPT-BIS-006",
        f"There is nothing to compare the inner values of {odd.name!r} with",
        cause=cause,
        remedy="Name a sound artifact of the same target and precision, or a variant that "
        "was lowered from the same pivot, as the other one.",
    )


def _require_same_names(first: str, one: Signature, second: str, two: Signature) -> None:
    """Refuse artifacts that are called otherwise.

    Raises:
        UsageError: LPT-BIS-007.
    """
    ours, theirs = _names(one), _names(two)
    if ours != theirs:
        raise UsageError(
            "LPT-BIS-007",
            f"{first} and {second} have inputs or outputs of other names",
            cause=f"{ours} and {theirs}",
            remedy="Name artifacts of one model. If this is one, its interface was changed: take "
            "the file that was built, or port the model again.",
        )


def _names(signature: Signature) -> str:
    sides = (sorted(spec.name for spec in side) for side in (signature.inputs, signature.outputs))
    return " -> ".join(", ".join(names) for names in sides)


def _notes(
    odd: Artifact, parts: bool, differences: tuple[str, ...], measured: _Values
) -> Iterator[str]:
    if odd.strange:
        yield f"{odd.name} is looked into as it is: {odd.strange}."
    if differences and not parts:
        yield "The artifacts differ, and no value shows it on these samples."
    if measured.alone:
        yield (
            f"{measured.alone} values of the sound artifact have no counterpart of their name and "
            "are left out."
        )
    if measured.unreached:
        yield f"{measured.unreached} values behind the operator that does not run were not reached."


# --- value by value -----------------------------------------------------------------------------


class _Values:
    """Measures every value of two artifacts by its name.

    Args:
        one: The sound one's session.
        two: The other one's.
        context: Progress and cancellation.

    Attributes:
        alone: Values of the sound one without a counterpart.
        unreached: Values of the sound one behind an operator of the other that does not run.
        output_error: Largest relative L2 error of an output of a batch.
    """

    def __init__(self, one: InnerSession, two: InnerSession, context: Context) -> None:
        self._one, self._two, self._context = one, two, context
        self._whole: dict[str, Errors] = {}
        self._own: dict[str, Errors] = {}
        self._operators: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self.alone = self.unreached = 0
        self.output_error = 0.0

    def run(self, samples: Samples) -> list[Parting]:
        """Return the errors of every value, in the sound artifact's order."""
        from lepton_core.samples import batches

        for batch in batches(samples, self._one.signature, ROWS_AT_ONCE):
            self._context.checkpoint()
            held = {}
            for name, operator, value in self._one.inner(batch.inputs):
                self._operators.setdefault(name, operator)
                held[name] = value
            self._measure(batch.inputs, held, None, self._whole)
            self._measure(batch.inputs, held, held, self._own)
            self._compare_outputs(batch.inputs)
        order = list(self._operators)
        known = [name for name in order if name in self._whole or name in self._failed]
        reached = max(map(order.index, self._failed)) + 1 if self._failed else len(order)
        self.unreached = sum(name not in known for name in order[reached:])
        self.alone = len(order) - len(known) - self.unreached
        return [self._parting(name) for name in known]

    def _compare_outputs(self, inputs: Arrays) -> None:
        wanted = self._one.run(inputs)
        try:
            made = self._two.run(inputs)
        except SessionError:
            self.output_error = float("inf")
            return
        for name, value in wanted.items():
            if name not in made:
                self.output_error = float("inf")
                continue
            errors = Errors()
            errors.update(_real(value), _real(made[name]))
            self.output_error = max(self.output_error, float(errors.result().rel_l2))

    def _measure(
        self, inputs: Arrays, held: Arrays, fed: Arrays | None, into: dict[str, Errors]
    ) -> None:
        try:
            for name, _, value in self._two.inner(inputs, fed):
                if name in held:
                    into.setdefault(name, Errors()).update(_real(held[name]), _real(value))
        except SessionError as error:
            where = str(error.details.get("where", ""))
            if where not in held:
                raise
            self._failed[where] = error.cause or error.message

    def _parting(self, name: str) -> Parting:
        if name in self._failed:
            inf = float("inf")
            return Parting(name, self._operators[name], name, "", inf, inf, 0.0, 0.0, inf,
                           f"it does not run: {self._failed[name]}")  # fmt: skip
        found, own = self._whole[name].result(), self._own.get(name)
        return Parting(
            name, self._operators[name], name, "", float(found.rel_l2), float(found.max_abs),
            float(found.cosine), self._whole[name].largest,
            None if own is None else float(own.result().rel_l2),
        )  # fmt: skip


def _real(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return places, booleans and halves as float32, which errors are measured in."""
    return np.asarray(value, np.float32)


__all__ = ["ROWS_AT_ONCE", "TOLERANCE", "Artifact", "Inside", "artifact_of"]
