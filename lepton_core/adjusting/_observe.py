"""Timing the candidates: in the workers of their runtimes, away from whatever is running."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_core._split import splittable
from lepton_core.errors import AdjustError, LeptonError, OperationCancelledError
from lepton_core.evaluate import evaluate_isolated
from lepton_core.types import REFERENCE_DEVICE, EvaluateRequest, Target, TimingPoint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from lepton_core.adjusting._candidates import Candidate
    from lepton_core.adjusting._workload import Load
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.store import Store, Version
    from lepton_core.types import EvaluateResult

ROUNDS = 2
BATCHES = (8, 32, 128)
SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Observation:
    """What one way of running calls costs here.

    Attributes:
        version: Version that runs.
        target: Its target string.
        precision: Its precision.
        threads: Intra-op threads.
        rows: Rows of a call.
        batch: Rows per run, ``None`` for the whole call at once.
        callers: Threads that call at the same time.
        p50_ms: Median time of a call, in milliseconds; the better of two rounds.
        p95_ms: 95th percentile of the same round.
        rows_per_s: Rows of all callers together; the better of two rounds.
        memory_bytes: What the open session and its runtime add to a process; 0 if not known.
    """

    version: str
    target: str
    precision: str
    threads: int
    rows: int
    batch: int | None
    callers: int
    p50_ms: float
    p95_ms: float
    rows_per_s: float
    memory_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    def cost(self, objective: str) -> float:
        """Return what is to be small: milliseconds, seconds per row, or bytes."""
        if objective == "throughput":
            return 1.0 / self.rows_per_s
        return float(self.memory_bytes) if objective == "memory" else self.p50_ms


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return the numbers of threads worth trying on so many CPUs: powers of two, and all."""
    powers = [1 << n for n in range(cpus.bit_length()) if 1 << n <= cpus]
    return tuple(sorted({*powers, cpus}))


class Observer:
    """Measures candidates.

    Args:
        store: Where they are.
        hooks: Runs them.
        context: Scratch files, progress, cancellation.
        base: What the alias points to.
        samples: Samples to call with; by default the golden inputs of *base* if they are real,
            else noise, which costs a network the same time.
        callers: Threads that call at the same time.
        seconds: Time for each timing.
    """

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        context: Context,
        base: Version,
        *,
        samples: str | None,
        callers: int,
        seconds: float,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._context = context
        self._samples = samples
        self._recorded = self._golden(base) if samples is None else None
        self._callers = callers
        self._seconds = seconds
        self._number = 0

    def observe(
        self,
        candidates: Sequence[Candidate],
        loads: Sequence[Load],
        threads: Collection[int],
        batches: Collection[int] = (),
        *,
        must: str,
    ) -> tuple[tuple[Observation, ...], dict[str, str]]:
        """Time every candidate with every number of threads, in interleaved rounds.

        Args:
            candidates: Versions that may run.
            loads: Numbers of rows.
            threads: Numbers of threads.
            batches: Rows at a time to try beside the usual ones.
            must: Version that has to run, if it is among them: the alias's own.

        Returns:
            The observations, and by version why it cannot run here after all.

        Raises:
            LeptonError: *must* cannot be run; LPT-ADJ-011, it is only interpreted here.
        """
        ways = [(c.version, n) for c in candidates for n in sorted(threads)]
        bar = self._context.reporter.task("measure", ROUNDS * len(ways))
        best: dict[tuple[Any, ...], Observation] = {}
        failed: dict[str, str] = {}
        sizes: dict[str, int] = {}
        for _ in range(ROUNDS):
            for version, count in ways:
                self._context.checkpoint()
                bar.advance()
                if version.id in failed:
                    continue
                try:
                    if version.id not in sizes:
                        sizes[version.id] = self.memory(version)
                    for seen in self._time(version, count, loads, batches):
                        key = (seen.version, seen.threads, seen.rows, seen.batch)
                        best[key] = _better(best.get(key), seen)
                except OperationCancelledError:
                    raise
                except LeptonError as error:
                    if version.id == must:
                        raise
                    failed[version.id] = f"it does not run here: {error.code}: {error.message}"
        bar.finish()
        kept = (replace(o, memory_bytes=sizes[o.version]) for o in best.values())
        return tuple(o for o in kept if o.version not in failed), failed

    def _time(
        self, version: Version, threads: int, loads: Sequence[Load], batches: Collection[int]
    ) -> Iterator[Observation]:
        points = tuple(
            TimingPoint(load.rows, batch, self._callers, self._seconds)
            for load in loads
            for batch in _batches(version, load.rows, batches)
        )
        result = self._evaluate(self._hooks, version, threads, points, memory=False)
        for point, timed in zip(points, result.timings, strict=True):
            yield Observation(
                version.id,
                version.target,
                version.precision,
                threads,
                point.rows,
                point.batch,
                point.callers,
                timed["p50_ms"],
                timed["p95_ms"],
                timed["rows_per_s"],
            )

    def memory(self, version: Version, threads: int = 1) -> int:
        """Return what a version's session adds to a process that has done nothing before."""
        from lepton_core.workers import WorkerPool

        target = Target.parse(version.target)
        if self._hooks.pool is None or self._hooks.registry.record(target.id).entry is None:
            return 0  # no process of its own to measure
        from lepton_core.dispatch import Hooks

        with WorkerPool() as pool:
            fresh = Hooks(self._hooks.registry, pool)
            point = (TimingPoint(seconds=0.0),)
            return self._evaluate(fresh, version, threads, point, memory=True).memory_bytes

    def _evaluate(
        self,
        hooks: Hooks,
        version: Version,
        threads: int,
        points: tuple[TimingPoint, ...],
        *,
        memory: bool,
    ) -> EvaluateResult:
        target = Target.parse(version.target)
        self._number += 1
        workdir = self._context.workdir / f"observe-{self._number:04d}"
        workdir.mkdir()
        with self._store.view(version) as view:
            request = EvaluateRequest(
                target.id,
                str(self.inputs(version)),
                device=target.device,
                threads=threads,
                timings=points,
                memory=memory,
            )
            result = evaluate_isolated(
                hooks, view.model, request, replace(self._context, workdir=workdir)
            )
        if result.facts.get("device") == REFERENCE_DEVICE:
            raise AdjustError(
                "LPT-ADJ-011",
                f"{version.id} is interpreted here, not run",
                cause=f"what {version.target} is for is not this machine; times here say nothing",
                remedy="Adjust it on the device that it is for.",
                details={"version": version.id, "target": version.target},
            )
        return result

    @property
    def inputs_from(self) -> str:
        """Where the inputs come from: ``"samples"``, ``"golden"`` or ``"random"``."""
        if self._samples is not None:
            return "samples"
        return "random" if self._recorded is None else "golden"

    def _golden(self, base: Version) -> Samples | None:
        from lepton_core.deployment._golden import real_rows

        if base.model.signature is None or not base.role("golden"):
            return None
        with self._store.view(base) as view:
            return real_rows(view.folder / "golden", base.model.signature)

    def inputs(self, version: Version) -> Path:
        """Return the folder of the samples to call a version with, written when first needed."""
        from lepton_core.samples import load_samples, match, random_samples, save

        folder = self._context.workdir / "inputs" / version.id
        if not folder.exists():
            signature = version.model.signature
            if signature is None:
                msg = f"{version.id} was stored without a signature"
                raise ValueError(msg)
            if self._recorded is not None:
                found = match(self._recorded, signature)
            elif self._samples is None:
                found = random_samples(signature, SAMPLES, self._context.seed)
            else:
                matched = match(load_samples(self._samples), signature)
                found = matched.rows(range(min(SAMPLES, len(matched))))
            folder.parent.mkdir(parents=True, exist_ok=True)
            save(found, folder)
        return folder


def _batches(version: Version, rows: int, more: Collection[int]) -> tuple[int | None, ...]:
    """Return the sizes of parts worth trying for calls of so many rows."""
    signature = version.model.signature
    if signature is None or not splittable(signature):
        return (None,)
    return (None, *(size for size in sorted({*BATCHES, *more}) if size < rows))


def _better(old: Observation | None, new: Observation) -> Observation:
    """Return the round that was disturbed less."""
    if old is None:
        return new
    first = new if new.p50_ms < old.p50_ms else old
    return replace(first, rows_per_s=max(old.rows_per_s, new.rows_per_s))


__all__ = ["Observation", "Observer", "thread_counts"]
