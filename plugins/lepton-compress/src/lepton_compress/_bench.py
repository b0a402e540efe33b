"""Measuring candidates: outputs against the pivot's, size and time on the target."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._balanced import balanced_error
from lepton_core.artifacts import artifact_size
from lepton_core.evaluate import evaluate_isolated
from lepton_core.gains import gain_of
from lepton_core.passport import decode_number, make_passport
from lepton_core.samples import save
from lepton_core.timing import faster
from lepton_core.types import ConvertRequest, EvaluateRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lepton_compress._job import Job
    from lepton_core import recipe as recipes
    from lepton_core.dispatch import Hooks
    from lepton_core.gains import Gain
    from lepton_core.samples import Samples
    from lepton_core.types import Model


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and what was measured.

    Attributes:
        name: What it is, for people.
        recipe: Its recipe; ``None`` for the float model.
        estimator: Range estimator.
        float_layers: Layers kept float by the search.
        verdict: ``"pass"``, ``"weak"`` or ``"fail"`` under the budget.
        why: The verdict's reasons.
        drop: Loss of the metric; infinite if it could not be measured.
        error: Largest relative L2 error of any output.
        size: Bytes of the artifact.
        race: Its calls in turns with those of the float model; empty if not timed.
        gains: By how much it is smaller or faster than the float model; empty if it is neither.
        balanced: Error of the outputs with every channel counted alike, 0 to 1.
        integers: How the session sums products of integers; empty if it computes none.
        gain: Its size and time beside those of the float model; ``None`` if there was none yet.
    """

    name: str
    recipe: recipes.Recipe | None
    estimator: str
    float_layers: tuple[str, ...]
    verdict: str
    why: str
    drop: float
    error: float
    size: int
    race: Mapping[str, Any] = field(default_factory=dict)
    gains: str = ""
    balanced: float = math.inf
    integers: str = ""
    gain: Gain | None = None

    @property
    def p50_ms(self) -> float | None:
        """Median time of one request; ``None`` if not timed."""
        return self.race.get("after_ms")

    @property
    def facts(self) -> dict[str, Any]:
        """What the record of a result says of it: ``gain``, if it was measured."""
        return {} if self.gain is None else {"gain": self.gain.to_dict()}

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against it."""
        return self.verdict != "fail"

    def summary(self) -> dict[str, Any]:
        """Return what the record keeps, JSON types."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "why": self.why,
            "drop": self.drop if math.isfinite(self.drop) else None,
            "relative_error": self.error if math.isfinite(self.error) else None,
            "size_bytes": self.size,
            "p50_ms": self.p50_ms,
            "float_layers": list(self.float_layers),
        }


@dataclass
class Bench:
    """Rows to measure on and the source's outputs for them.

    Attributes:
        job: What was asked for.
        samples: Rows to measure on; none of them calibrated.
        folder: Where the rows are saved.
        reference: The pivot's outputs, by name.
        numbers: Numbers for scratch directories.
        plain: The uncompressed model on the target, once measured.
    """

    job: Job
    samples: Samples
    folder: Path
    reference: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    plain: Model | None = None

    @classmethod
    def prepare(cls, job: Job, samples: Samples, numbers: Iterator[int] | None = None) -> Bench:
        """Save the rows and run the pivot on them; *numbers* go on from another bench."""
        bench = cls(job, samples, Path(), numbers=numbers or itertools.count())
        bench.folder = save(samples, bench._folder("rows"))
        owner = bench._hooks.reference_owner("pivot")
        bench.reference = bench._outputs(job.base, owner, reference=True)[0]
        return bench

    @property
    def _hooks(self) -> Hooks:
        assert self.job.context.hooks is not None  # noqa: S101 - checked by the engine
        return self.job.context.hooks

    @property
    def _target(self) -> Target:
        return Target(self.job.request.target, self.job.request.device)

    @property
    def rows(self) -> int:
        """How many rows are measured on."""
        return len(self.samples)

    def on_rows(self, count: int) -> Bench:
        """Return a bench of at most *count* of the rows."""
        if count >= self.rows:
            return self
        few = self.samples.rows(np.linspace(0, self.rows - 1, count).astype(np.int64))
        return Bench.prepare(self.job, few, self.numbers)

    def measure_float(self) -> Trial:
        """Measure the uncompressed model on the target."""
        return self.measure("fp32", None, "", ())

    def measure(
        self,
        name: str,
        recipe: recipes.Recipe | None,
        estimator: str,
        float_layers: tuple[str, ...],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> Trial:
        """Lower a recipe, run it on the target, and judge it by the rules of a passport.

        With the uncompressed model at hand, both are timed in turn. *arrays* are those of the
        recipe's sidecar.
        """
        model = self._lower(recipe, arrays)
        actual, facts = self._outputs(model, self._target.id)
        passport = make_passport(
            source=self.job.base,
            variant=model,
            target=self.job.request.target,
            precision=recipe.precision if recipe is not None else "fp32",
            reference=self.reference,
            actual=actual,
            held_out=self.samples,
            metric=self.job.options.metric,
            max_drop=self.job.request.max_drop,
            session_facts=facts,
        )
        if recipe is None:
            self.plain = model
        timed = recipe is not None and self.plain is not None
        raced = self._race(model) if timed else {}
        errors = [decode_number(o["rel_l2"]) for o in passport["outputs"].values() if "rel_l2" in o]
        metric, verdict = passport["metric"], passport["verdict"]
        return Trial(
            name,
            recipe,
            estimator,
            float_layers,
            verdict["verdict"],
            verdict["why"],
            math.inf if metric is None else float(decode_number(metric["drop"])),
            max((math.inf if math.isnan(e) else e for e in errors), default=math.inf),
            artifact_size(model),
            raced,
            self._gains(model, raced) if timed else "",
            balanced_error(self.reference, actual),
            str(facts.get("integers", "")),
            gain_of((self.plain, model), raced) if timed and self.plain is not None else None,
        )

    def _lower(
        self, recipe: recipes.Recipe | None, arrays: Mapping[str, np.ndarray] | None
    ) -> Model:
        folder = self._folder("trial")
        path = None
        if recipe is not None:
            place = self.job.write(recipe, folder / "recipe.json", arrays)
            path = str(place)
        out = folder / "model"
        out.mkdir()
        asked = ConvertRequest(self._target.id, device=self._target.device, recipe=path)
        inside = replace(self.job.scratch, workdir=out)
        return self._hooks.convert(self.job.base, asked, inside).model

    def _gains(self, model: Model, raced: Mapping[str, Any]) -> str:
        """Return what a model gains over the uncompressed one."""
        assert self.plain is not None  # noqa: S101 - checked by the caller
        size, before = artifact_size(model), artifact_size(self.plain)
        found = [f"{before / size:.2f}x smaller"] if size < before else []
        return " and ".join([*found, *filter(None, [faster(raced)])])

    def _folder(self, what: str) -> Path:
        folder = self.job.scratch.workdir / f"{what}-{next(self.numbers):03d}"
        folder.mkdir()
        return folder

    def _outputs(
        self, model: Model, owner: str, *, reference: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        folder = self._folder("outputs")
        out = str(folder / "values")
        request = EvaluateRequest(
            owner,
            str(self.folder),
            out,
            device=None if reference else self._target.device,
            threads=self.job.options.threads,
            reference=reference,
        )
        inside = replace(self.job.scratch, workdir=folder)
        result = evaluate_isolated(self._hooks, model, request, inside)
        outputs = {n: np.load(path, mmap_mode="r") for n, path in result.outputs.items()}
        return outputs, dict(result.facts)

    def _race(self, model: Model) -> Mapping[str, Any]:
        """Time a model in turns with the uncompressed one.

        There is no time where the target is interpreted in place of a device.
        """
        request = EvaluateRequest(
            self._target.id,
            str(self.folder),
            device=self._target.device,
            threads=self.job.options.threads,
            rival=self.plain,
        )
        inside = replace(self.job.scratch, workdir=self._folder("timing"))
        return evaluate_isolated(self._hooks, model, request, inside).race


__all__ = ["Bench", "Trial"]
