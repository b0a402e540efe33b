"""Lowering tapped pivots, and running both sides on the same samples."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_core import recipe as recipes
from lepton_core.bisecting._plan import FED, Tap, recipe_for
from lepton_core.samples import batches
from lepton_core.types import ConvertRequest, Model, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lepton_core.bisecting._types import Side
    from lepton_core.context import Context, Session
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Target

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


def _aligned(
    plain: Sequence[Arrays], tapped: Sequence[Arrays], name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield one output of both, batch by batch or joined by rows.

    An artifact with a batch of its own takes other batches than the tapped pivot, the last one
    filled up. An output without rows is left out then: what it sums up is not the same.
    """
    pairs = [(a[name], b[name]) for a, b in zip(plain, tapped, strict=False)]
    if len(plain) == len(tapped) and all(a.shape == b.shape for a, b in pairs):
        yield from pairs
        return
    every = [batch[name] for batch in (*plain, *tapped)]
    if all(array.ndim for array in every):
        whole, parts = (np.concatenate([batch[name] for batch in side]) for side in (plain, tapped))
        rows = min(len(whole), len(parts))
        if whole.shape[1:] == parts.shape[1:]:
            yield whole[:rows], parts[:rows]


def _is_fixed(session: Session) -> bool:
    """Tell whether a session takes batches of one size, as an option of its conversion may ask."""
    return any(spec.shape and isinstance(spec.shape[0], int) for spec in session.signature.inputs)


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
        outputs: Float outputs of the model, which are compared with those of the artifacts.
        changed: Largest relative L2 difference of an output between an artifact as it is and with
            taps, by side, over the groups so far; a side without an artifact has none.
    """

    hooks: Hooks
    context: Context
    first: Side
    second: Side
    samples: Samples
    threads: int | None
    batch: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    changed: dict[str, float] = field(default_factory=dict)
    _plain: dict[str, list[Arrays]] = field(default_factory=dict)
    _number: int = 0

    def errors(self, group: Sequence[Tap]) -> dict[str, Errors]:
        """Return the error of each value when each side runs on its own."""
        names = [tap.use.name for tap in group]
        found = {name: Errors() for name in names}
        kept: list[list[Arrays]] = []
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(self._scratch())
            pivot, _ = part._part({"taps": names})
            one = stack.enter_context(part._opened(self.first, pivot))
            two = stack.enter_context(part._opened(self.second, pivot))
            self.facts = two.facts
            for inputs in self._batches(one if _is_fixed(one) else two):
                a, b = one.run(inputs), two.run(inputs)
                kept.append([{name: out[name] for name in self.outputs} for out in (a, b)])
                for name, errors in found.items():
                    errors.update(a[name], b[name])
        for which, side in enumerate((self.first, self.second)):
            self._compare_outputs(side, [pair[which] for pair in kept])
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
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(self._scratch())
            tapped, _ = part._part({"taps": wanted})
            alone, present = part._part({"taps": names, "cuts": list(cuts)})
            one = stack.enter_context(part._opened(self.first, tapped))
            two = stack.enter_context(part._opened(self.second, alone, present, cuts))
            takes = [spec.name for spec in two.signature.inputs]
            for inputs in self._batches(one):
                a = one.run(inputs)
                fed = {f"{name}{FED}": a[name] for name in reads}
                b = two.run({name: fed[name] if name in fed else inputs[name] for name in takes})
                for name, errors in found.items():
                    errors.update(a[name], b[name])
        return found

    def _compare_outputs(self, side: Side, batches_of: Sequence[Arrays]) -> None:
        """Note how far the outputs of a tapped side are from those of its artifact as it is."""
        if side.artifact is None or side.target is None or not self.outputs:
            return
        if side.name not in self._plain:
            self._plain[side.name] = self._run_plain(side.artifact, side.target)
        for name in self.outputs:
            errors = Errors()
            pairs = list(_aligned(self._plain[side.name], batches_of, name))
            for whole, tapped in pairs:
                errors.update(whole, tapped)
            if pairs:  # what was not compared is not said to be unchanged
                found = errors.result().rel_l2
                self.changed[side.name] = max(self.changed.get(side.name, 0.0), found)

    def _run_plain(self, artifact: Model, target: Target) -> list[Arrays]:
        """Return the float outputs of each batch; not every output has rows to join them by."""
        request = OpenRequest(target.id, target.device, self.threads)
        with (
            self._scratch() as part,
            self.hooks.open(artifact, request, part._place("artifact")) as plain,
        ):
            found = [plain.run(inputs) for inputs in self._batches(plain)]
        return [{name: one[name] for name in self.outputs} for one in found]

    # --- sessions -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Runner]:
        """Yield this runner with a folder of its own, which goes again: pivots may be large."""
        with tempfile.TemporaryDirectory(
            dir=self.context.workdir, prefix="part-", ignore_cleanup_errors=True
        ) as folder:
            yield replace(self, context=replace(self.context, workdir=Path(folder)))

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
        self,
        side: Side,
        pivot: Model,
        names: Sequence[str] | None = None,
        cuts: Sequence[str] = (),
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
            options=self._options(side.options, side.target) if cuts else side.options,
        )
        made = self.hooks.convert(pivot, asked, self._place("lowered")).model
        request = OpenRequest(side.target.id, side.target.device, self.threads)
        with self.hooks.open(made, request, place) as session:
            yield session

    def _options(self, options: Mapping[str, Any], target: Target) -> dict[str, Any]:
        """Return options for a part of a pivot, whose inputs are not those of the whole."""
        infos = self.hooks.registry.infos()
        artifact = self.hooks.registry.target(target.id).artifact
        edges = [edge for info in infos.values() for edge in info.edges if edge.result == artifact]
        odd = {name for edge in edges for name in edge.input_options}
        return {name: value for name, value in options.items() if name not in odd}

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
