"""Measuring candidates: outputs against the pivot's, size and time on the target."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core import recipe as recipes
from lepton_core.artifacts import artifact_size
from lepton_core.evaluate import evaluate_isolated
from lepton_core.passport import decode_number, make_passport
from lepton_core.samples import save
from lepton_core.types import ConvertRequest, EvaluateRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_compress._options import Options
    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_core.types import Model, OptimizeRequest

_SECONDS = 0.2
_FASTER = 0.97
"""A candidate is called faster if it needs less than this share of the time."""


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
        p50_ms: Median time of one request; ``None`` if not timed.
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
    p50_ms: float | None

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against it."""
        return self.verdict != "fail"

    def gains(self, other: Trial) -> str:
        """Say by how much this is smaller or faster than *other*; nothing if it is neither."""
        found = []
        if self.size < other.size:
            found.append(f"{other.size / self.size:.2f}x smaller")
        if self.p50_ms and other.p50_ms and self.p50_ms < _FASTER * other.p50_ms:
            found.append(f"{other.p50_ms / self.p50_ms:.2f}x faster")
        return " and ".join(found)

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
        base: The pivot.
        request: Names target and budget.
        context: Writes scratch files.
        samples: Rows to measure on; none of them calibrated.
        options: The engine's options.
        folder: Where the rows are saved.
        reference: The pivot's outputs, by name.
    """

    base: Model
    request: OptimizeRequest
    context: Context
    samples: Samples
    options: Options
    folder: Path
    reference: dict[str, np.ndarray]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def prepare(
        cls,
        base: Model,
        request: OptimizeRequest,
        context: Context,
        samples: Samples,
        options: Options,
    ) -> Bench:
        """Save the rows and run the pivot on them."""
        folder = save(samples, context.workdir / f"validation-{len(samples)}")
        bench = cls(base, request, context, samples, options, folder, {})
        assert context.hooks is not None  # noqa: S101 - checked by the engine
        owner = context.hooks.reference_owner("pivot")
        bench.reference, _, _ = bench._run(base, owner, reference=True, time=False)
        return bench

    @property
    def rows(self) -> int:
        """How many rows are measured on."""
        return len(self.samples)

    def on_rows(self, count: int) -> Bench:
        """Return a bench of at most *count* of the rows."""
        if count >= self.rows:
            return self
        few = self.samples.rows(np.linspace(0, self.rows - 1, count).astype(np.int64))
        return Bench.prepare(self.base, self.request, self.context, few, self.options)

    def measure_float(self) -> Trial:
        """Measure the uncompressed model on the target."""
        return self.measure("fp32", None, "", ())

    def measure(
        self,
        name: str,
        recipe: recipes.Recipe | None,
        estimator: str,
        float_layers: tuple[str, ...],
        *,
        time: bool = True,
    ) -> Trial:
        """Lower a recipe, run it on the target, and judge it by the rules of a passport."""
        folder = self._folder("trial")
        path = None
        if recipe is not None:
            path = str(recipes.write(recipe, folder / "recipe.json"))
        place = folder / "model"
        place.mkdir()
        hooks, target = self.context.hooks, Target.parse(self.request.target)
        assert hooks is not None  # noqa: S101 - checked by the engine
        asked = ConvertRequest(target.id, device=target.device, recipe=path)
        model = hooks.convert(self.base, asked, replace(self.context, workdir=place)).model
        actual, latency, facts = self._run(model, target.id, time=time)
        passport = make_passport(
            source=self.base,
            variant=model,
            target=self.request.target,
            precision="int8" if recipe is not None else "fp32",
            reference=self.reference,
            actual=actual,
            held_out=self.samples,
            metric=self.options.metric,
            max_drop=self.request.max_drop,
            session_facts=facts,
            environment={},
        )
        errors = [decode_number(o["rel_l2"]) for o in passport["outputs"].values() if "rel_l2" in o]
        metric = passport["metric"]
        return Trial(
            name,
            recipe,
            estimator,
            float_layers,
            passport["verdict"]["verdict"],
            passport["verdict"]["why"],
            math.inf if metric is None else float(decode_number(metric["drop"])),
            max((math.inf if math.isnan(e) else e for e in errors), default=math.inf),
            artifact_size(model),
            latency.get("p50_ms"),
        )

    def _folder(self, what: str) -> Path:
        folder = self.context.workdir / f"{what}-{self.rows}-{next(self.numbers):03d}"
        folder.mkdir()
        return folder

    def _run(
        self, model: Model, owner: str, *, reference: bool = False, time: bool = True
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
        folder = self._folder("outputs")
        request = EvaluateRequest(
            owner,
            str(self.folder),
            out=str(folder / "values"),
            threads=self.options.threads,
            reference=reference,
            latency_seconds=_SECONDS if time else 0.0,
        )
        assert self.context.hooks is not None  # noqa: S101 - checked by the engine
        inside = replace(self.context, workdir=folder)
        result = evaluate_isolated(self.context.hooks, model, request, inside)
        outputs = {n: np.load(path, mmap_mode="r") for n, path in result.outputs.items()}
        return outputs, dict(result.latency), dict(result.facts)


__all__ = ["Bench", "Trial"]
