"""Lowering tapped pivots, and running both sides on the same samples."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_core import recipe as recipes
from lepton_core.bisecting._plan import FED, Tap, recipe_for
from lepton_core.samples import batches
from lepton_core.types import ConvertRequest, Model, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lepton_core.bisecting._types import Side
    from lepton_core.context import Context, Session
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples

    Arrays = Mapping[str, np.ndarray[Any, Any]]


class Errors:
    """The errors of one value, batch by batch; another shape counts as not finite."""

    def __init__(self) -> None:
        self._sums = lk.ErrorAccumulator()

    def update(self, first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> None:
        """Add a batch."""
        if np.shape(first) != np.shape(second):
            second = np.full(np.shape(first), np.nan, np.float32)
        self._sums.update(first, second)

    def result(self) -> lk.ErrorMetrics:
        """Return the metrics; a value without elements has no error."""
        if not self._sums.count:
            self._sums.update(np.zeros(1), np.zeros(1))
        return self._sums.result()

    @property
    def largest(self) -> float:
        """Largest finite magnitude of the first side."""
        return float(self._sums.reference_max)


@dataclass
class Runner:
    """Runs groups of values on both sides.

    Attributes:
        hooks: Calls the plugins.
        context: Scratch space, progress, cancellation.
        first: The side that is the measure.
        second: The other one.
        samples: Rows to run.
        threads: Threads of each session.
        batch: Rows of one run.
        facts: What the second side's session tells, once it was opened.
    """

    hooks: Hooks
    context: Context
    first: Side
    second: Side
    samples: Samples
    threads: int | None
    batch: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    _number: int = 0

    def errors(self, group: Sequence[Tap]) -> dict[str, Errors]:
        """Return the error of each value when each side runs on its own."""
        names = [tap.use.name for tap in group]
        found = {name: Errors() for name in names}
        with self._tapped(self.first, names) as one, self._tapped(self.second, names) as two:
            self.facts = two.facts
            for inputs in self._batches(one):
                a, b = one.run(inputs), two.run(inputs)
                for name, errors in found.items():
                    errors.update(a[name], b[name])
        return found

    def own_errors(self, group: Sequence[Tap], cuts: Sequence[str]) -> dict[str, Errors]:
        """Return the error of each value when its operators are fed the first side's values.

        Args:
            group: The values.
            cuts: All values at which the pivot is cut.
        """
        names = [tap.use.name for tap in group]
        reads = dict.fromkeys(name for tap in group for name in tap.reads)
        wanted = list(dict.fromkeys((*names, *reads)))
        found = {name: Errors() for name in names}
        with self._tapped(self.first, wanted) as one, self._alone(names, cuts) as two:
            takes = [spec.name for spec in two.signature.inputs]
            for inputs in self._batches(one):
                a = one.run(inputs)
                fed = {f"{name}{FED}": a[name] for name in reads}
                b = two.run({name: fed[name] if name in fed else inputs[name] for name in takes})
                for name, errors in found.items():
                    errors.update(a[name], b[name])
        return found

    def tapping(self, side: Side, names: Sequence[str], outputs: Sequence[str]) -> float:
        """Return the largest relative L2 difference of an output that tapping makes."""
        if side.artifact is None or side.target is None:
            return 0.0
        found = {name: Errors() for name in outputs}
        request = OpenRequest(side.target.id, side.target.device, self.threads)
        with (
            self.hooks.open(side.artifact, request, self._place("artifact")) as plain,
            self._tapped(side, names) as tapped,
        ):
            for inputs in self._batches(plain):
                a, b = plain.run(inputs), tapped.run(inputs)
                for name, errors in found.items():
                    errors.update(a[name], b[name])
        return max((errors.result().rel_l2 for errors in found.values()), default=0.0)

    # --- sessions -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _tapped(self, side: Side, names: Sequence[str]) -> Iterator[Session]:
        model, _ = self._part({"taps": list(names)})
        with self._opened(side, model, None, ()) as session:
            yield session

    @contextlib.contextmanager
    def _alone(self, names: Sequence[str], cuts: Sequence[str]) -> Iterator[Session]:
        model, present = self._part({"taps": list(names), "cuts": list(cuts)})
        with self._opened(self.second, model, present, cuts) as session:
            yield session

    def _part(self, options: dict[str, Any]) -> tuple[Model, Sequence[str]]:
        """Return a tapped or cut pivot, and all names in it."""
        source = self.first.pivot.evolve(format="onnx")
        target = self.second.target or self.first.target
        assert target is not None  # noqa: S101 - one side is a variant
        request = ConvertRequest(target.id, to_format="pivot", options=options)
        result = self.hooks.convert(source, request, self._place("pivot"))
        return result.model, result.facts["names"]

    @contextlib.contextmanager
    def _opened(
        self, side: Side, pivot: Model, names: Sequence[str] | None, cuts: Sequence[str]
    ) -> Iterator[Session]:
        place = self._place("session")
        if side.target is None:
            owner = self.hooks.reference_owner("pivot")
            request = OpenRequest(owner, threads=self.threads, reference=True)
            with self.hooks.open(pivot, request, place) as session:
                yield session
            return
        recipe = self._recipe(side, pivot, names, cuts, place.workdir)
        asked = ConvertRequest(
            side.target.id,
            precision="fp32" if recipe else side.precision,
            device=side.target.device,
            recipe=recipe,
            options=side.options,
        )
        made = self.hooks.convert(pivot, asked, self._place("lowered")).model
        request = OpenRequest(side.target.id, side.target.device, self.threads)
        with self.hooks.open(made, request, place) as session:
            yield session

    def _recipe(
        self,
        side: Side,
        pivot: Model,
        names: Sequence[str] | None,
        cuts: Sequence[str],
        folder: Path,
    ) -> str | None:
        if side.recipe is None:
            return None
        whole = recipes.read(side.recipe)
        arrays = recipes.load_arrays(whole, side.recipe)
        if names is None:
            part = replace(whole, pivot=replace(whole.pivot, digest=pivot.digest))
        else:
            part = recipe_for(whole, pivot.digest, names, cuts)
            used = {n for entry in part.blocks.values() for n in entry.stored}
            used |= {entry.integers for entry in part.tensors.values() if entry.integers}
            arrays = {name: array for name, array in arrays.items() if name in used}
        return str(recipes.write(part, folder / "recipe.json", integers=arrays))

    def _batches(self, session: Session) -> Iterator[Arrays]:
        for batch in batches(self.samples, session.signature, self.batch):
            self.context.checkpoint()
            yield batch.inputs

    def _place(self, what: str) -> Context:
        self._number += 1
        folder = self.context.workdir / f"{self._number:03d}-{what}"
        folder.mkdir()
        return replace(self.context, workdir=folder)


__all__ = ["Errors", "Runner"]
