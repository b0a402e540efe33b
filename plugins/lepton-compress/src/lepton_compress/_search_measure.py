"""Measuring choices: size, error and loss of the metric on some rows, on the target."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lepton_compress._runtime import versioned
from lepton_compress._search_cache import Cache, key_of
from lepton_compress._search_space import FLOAT
from lepton_core import recipe as recipes
from lepton_core.artifacts import artifact_size
from lepton_core.environment import available_cpus, cpu_name, versions_of
from lepton_core.executor import LocalExecutor
from lepton_core.metrics import choose_metric, measure, output_errors
from lepton_core.samples import collect_outputs
from lepton_core.types import EXECUTION_FACTS, ConvertRequest, OpenRequest, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_compress._job import Job
    from lepton_compress._recover_recipe import Recovery
    from lepton_compress._search_space import Assignment
    from lepton_core.context import Context, Reporter, Session
    from lepton_core.metrics import Choice
    from lepton_core.recipe import Recipe
    from lepton_core.samples import Samples
    from lepton_core.types import Model

    Outputs = dict[str, NDArray[Any]]

SMALLEST_SLICE = 10
"""Slices of fewer rows say little, and are passed over."""


@dataclass(frozen=True, slots=True)
class Point:
    """One choice, measured.

    Attributes:
        chosen: Precision by unit.
        size: Bytes of the artifact.
        drop: Loss of the metric.
        spread: Standard deviation of the rows' own losses.
        worse: Rows that lost something.
        better: Rows that gained something.
        rows: Rows measured on.
        error: Largest relative L2 error of any output.
        cosine: Smallest cosine of any output.
        kl: Mean Kullback-Leibler divergence of the classes from the source's in nats; ``None`` for
            outputs that are no scores of classes.
        worst_slice: Name of the slice that lost most, empty if there are none.
        slice_drop: Its loss.
    """

    chosen: Mapping[str, str]
    size: int
    drop: float
    spread: float
    worse: int
    better: int
    rows: int
    error: float
    cosine: float
    kl: float | None = None
    worst_slice: str = ""
    slice_drop: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise of the worst output, in decibels."""
        return math.inf if self.error == 0 else -20 * math.log10(self.error)

    @property
    def mix(self) -> str:
        """How many weights have which precision, for people."""
        found = Counter(self.chosen.values())
        return ", ".join(f"{count} {choice}" for choice, count in sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; what is not finite becomes ``None``."""
        data = {**asdict(self), "chosen": dict(self.chosen), "sqnr_db": self.sqnr_db}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in data.items()}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Point:
        """Undo :meth:`to_dict`."""
        known = {k: v for k, v in data.items() if k != "sqnr_db"}
        for name in ("drop", "spread", "error"):
            known[name] = math.inf if known[name] is None else known[name]
        known["cosine"] = -1.0 if known["cosine"] is None else known["cosine"]
        return cls(**known)


class Choices(Protocol):
    """What can be chosen, as a meter needs it."""

    calibration: Samples
    recovery: Recovery
    refused: list[str]

    @property
    def what(self) -> str:
        """What is chosen, for people."""

    @property
    def units(self) -> Mapping[str, Any]:
        """What has one form each, by name."""

    def recipe(
        self, chosen: Assignment, reasons: Mapping[str, str] | None = None
    ) -> tuple[Recipe | None, dict[str, NDArray[np.generic]]]:
        """Return the recipe of a choice and what its sidecar holds; ``None`` if all is float."""

    def stored(self, chosen: Assignment) -> float:
        """Return the bytes that weights take, about."""


@dataclass
class Meter:
    """Rows to measure on, and the source's outputs for them.

    Attributes:
        job: The request.
        space: Makes recipes.
        samples: Rows to measure on; none of them calibrated.
        cache: Measurements that are known.
        slices: Name of each row's slice, if there are any.
        numbers: Numbers for scratch folders; meters of one job share them.
        measured: How many choices were measured, not found in the cache.
    """

    job: Job
    space: Choices
    samples: Samples
    cache: Cache
    slices: NDArray[np.str_] | None = None
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    measured: int = 0
    _reference: Outputs = field(default_factory=dict)
    _metric: Choice | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, chosen: Assignment) -> Point:
        """Return one choice's measurement."""
        whole = {name: chosen.get(name, FLOAT) for name in self.space.units}
        slices = None if self.slices is None else key_of({"slices": self.slices.tolist()})
        facts = {"rows": self.samples.digest, "slices": slices, "chosen": whole}
        if not self.space.recovery.empty:
            facts["recovery"] = key_of(self.space.recovery.to_dict())
        key = key_of(facts)
        known = self.cache.get(key)
        if known is not None:
            return Point.from_dict({**known, "chosen": whole})
        point = self._measure(whole)
        self.cache.put(key, {k: v for k, v in point.to_dict().items() if k != "chosen"})
        return point

    def of_all(self, choices: Sequence[Assignment], title: str) -> list[Point]:
        """Return the measurements of several choices, in their order, several at a time."""
        bar = self.job.context.reporter.task(title, len(choices))

        def one(chosen: Assignment) -> Point:
            point = self.of(chosen)
            bar.advance()
            return point

        jobs = max(1, min(len(choices), available_cpus() // (self.job.options.threads or 1)))
        if jobs == 1:
            found = [one(chosen) for chosen in choices]
        else:
            with LocalExecutor(jobs) as executor:
                found = executor.map(one, choices)
        bar.finish()
        return found

    def on_rows(self, most: int) -> Meter:
        """Return a meter of at most *most* of the rows, spread evenly."""
        if most >= len(self.samples):
            return self
        at = np.linspace(0, len(self.samples) - 1, most).astype(np.int64)
        return replace(
            self, samples=self.samples.rows(at), _reference={}, _metric=None, measured=0,
            slices=None if self.slices is None else self.slices[at], _lock=threading.Lock(),
        )  # fmt: skip

    @property
    def reporter(self) -> Reporter:
        """Where progress goes."""
        return self.job.context.reporter

    @property
    def metric(self) -> Choice:
        """What is measured, on which output."""
        self._prepare()
        assert self._metric is not None  # noqa: S101 - set by _prepare
        return self._metric

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the metric, such as labels that fit no output."""
        return tuple(filter(None, [self.metric.warning]))

    # --- one choice ---------------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._lock:
            if self._metric is not None:
                return
            hooks = self.job.context.hooks
            assert hooks is not None  # noqa: S101 - checked by the engine
            owner = hooks.reference_owner("pivot")
            request = OpenRequest(owner, threads=self.job.options.threads, reference=True)
            with hooks.open(self.job.base, request, self._place("reference")) as session:
                self._reference = self._outputs(session)
            self._metric = choose_metric(
                self.job.options.metric, self._reference, self.samples.labels,
                self.job.base.metadata,
            )  # fmt: skip

    def _measure(self, whole: dict[str, str]) -> Point:
        self._prepare()
        self.job.context.checkpoint()
        place = self._place("choice")
        hooks = self.job.context.hooks
        assert hooks is not None  # noqa: S101 - checked by the engine
        try:
            model = self._lowered(whole, place)
            target = Target(self.job.request.target, self.job.request.device)
            request = OpenRequest(
                target.id, target.device, self.job.options.threads or 1,
                without=(EXECUTION_FACTS,),
            )  # fmt: skip
            with hooks.open(model, request, place) as session:
                outputs = self._outputs(session)
            size = artifact_size(model)
        finally:
            shutil.rmtree(place.workdir, ignore_errors=True)
        with self._lock:
            self.measured += 1
        return self._judged(whole, size, outputs)

    def _lowered(self, whole: dict[str, str], place: Context) -> Model:
        recipe, arrays = self.space.recipe(whole)
        path = None
        if recipe is not None:
            path = str(recipes.write(recipe, place.workdir / "recipe.json", integers=arrays))
        target = Target(self.job.request.target, self.job.request.device)
        out = place.workdir / "model"
        out.mkdir()
        asked = ConvertRequest(target.id, device=target.device, recipe=path)
        hooks = self.job.context.hooks
        assert hooks is not None  # noqa: S101 - checked by the engine
        return hooks.convert(self.job.base, asked, replace(place, workdir=out)).model

    def _outputs(self, session: Session) -> Outputs:
        def on_rows(_: int) -> None:
            self.job.context.checkpoint()

        found = collect_outputs(session.run, self.samples, session.signature, on_rows=on_rows)
        return dict(found)

    def _judged(self, whole: dict[str, str], size: int, outputs: Outputs) -> Point:
        choice = self.metric
        found = measure(choice, self._reference, outputs, self.samples.labels)
        errors = [output_errors(self._reference[n], outputs[n]) for n in self._reference]
        lost = found.per_sample
        worst, slice_drop = self._worst_slice(lost)
        return Point(
            whole, size, found.drop, float(np.std(lost)), int((lost > 0).sum()),
            int((lost < 0).sum()), len(lost),
            max((_or(e.rel_l2, math.inf) for e in errors), default=0.0),
            min((_or(e.cosine, -1.0) for e in errors), default=1.0),
            divergence(self._reference[choice.output], outputs[choice.output])
            if choice.metric.name in ("top1", "top5", "agreement") else None,
            worst, slice_drop,
        )  # fmt: skip

    def _worst_slice(self, lost: NDArray[np.float64]) -> tuple[str, float]:
        if self.slices is None:
            return "", 0.0
        means = {
            str(name): float(lost[self.slices == name].mean())
            for name in np.unique(self.slices)
            if (self.slices == name).sum() >= SMALLEST_SLICE
        }
        if not means:
            return "", 0.0
        worst = max(means, key=lambda name: means[name])
        return (worst, means[worst]) if means[worst] > 0 else ("", 0.0)

    def _place(self, what: str) -> Context:
        folder = self.job.scratch.workdir / f"{what}-{next(self.numbers):05d}"
        folder.mkdir()
        return replace(self.job.scratch, workdir=folder)


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else float(value)


def divergence(reference: NDArray[Any], actual: NDArray[Any]) -> float | None:
    """Return the mean Kullback-Leibler divergence of the classes, in nats.

    Rows that are not distributions already are scores, and go through a softmax.

    Args:
        reference: The source's scores, ``(N, classes)``.
        actual: The variant's, of the same shape.

    Returns:
        The mean over rows; ``None`` where there are no scores, infinite if some are not finite.
    """
    if reference.ndim != 2 or reference.shape[1] < 2 or reference.dtype.kind != "f":
        return None
    left, right = np.asarray(reference, np.float64), np.asarray(actual, np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.inf
    p, q = _log_classes(left), _log_classes(right)
    return max(0.0, float((np.exp(p) * (p - q)).sum(axis=1).mean()))


def _log_classes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def cache_for(job: Job, samples: Iterable[Samples]) -> Cache:
    """Return the cache for what can be said about one pivot on one target."""
    from lepton_compress import __version__

    options, hooks = job.options, job.context.hooks
    assert hooks is not None  # noqa: S101 - checked by the engine
    facts = {
        "schema": 1,
        "engine": __version__,
        "pivot": job.base.digest,
        "target": str(Target(job.request.target, job.request.device)),
        "tools": dict(versions_of("onnx", "onnxruntime", "openvino", "numpy")),
        "runtime": versioned(hooks, job.request.target),
        "cpu": cpu_name(),
        "samples": [part.digest for part in samples],
        "options": {
            "estimator": options.estimator, "keep": sorted(options.keep), "block": options.block,
            "method": options.method, "symmetric": options.symmetric, "scales": options.scales,
            "metric": options.metric,
        },
    }  # fmt: skip
    if options.sparsities or options.patterns or options.palettes:
        facts["small"] = {"prune": options.prune, "scope": options.scope, "group": options.group}
    return Cache(Path(options.cache) if options.cache else None, facts)


__all__ = ["Choices", "Meter", "Point", "cache_for", "divergence"]
