"""Streaming samples through the pivot into observers, in memory that does not grow with them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

import lepton_kernels as lk
from lepton_compress._runtime import Watched, opening, runtimes_of
from lepton_core import memory
from lepton_core.errors import OptimizeError, OptimizeRequestError
from lepton_core.samples import batches, release_pages
from lepton_core.types import Model
from lepton_onnx import pivot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lepton_compress._graph import Graph
    from lepton_core.context import Context, Session
    from lepton_core.samples import Samples

GROUP_BYTES = 128 << 20
"""Observed outputs of one run take about this much. Fewer rows are fed at once where values are
large, and further runs, each of which computes most of the graph again, follow only where one row
takes more."""

SHARE_OF_LIMIT = 8
"""Under a limit of memory, outputs take at most its 8th: the model is there several times."""

BINS = 2048
BATCH = 32


@dataclass(frozen=True, slots=True)
class Range:
    """What calibration found out about one value.

    Attributes:
        low: Smallest finite value seen.
        high: Largest finite value seen.
        chosen_low: Lower end of the range that the estimator chose.
        chosen_high: Upper end of it.
    """

    low: float
    high: float
    chosen_low: float
    chosen_high: float

    @property
    def observed(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        return self.low, self.high


def observe(
    graph: Graph,
    names: Sequence[str],
    samples: Samples,
    context: Context,
    estimator: str = "minmax",
    *,
    threads: int | None = None,
) -> dict[str, Range]:
    """Run samples through the pivot and return the range of each named value.

    The values become outputs of a copy of the pivot, in groups of bounded size (usually one), each
    of which is run once over all samples, on the installed runtime that ranks first for pivots, or
    on one that was faster (:mod:`lepton_compress._runtime`).

    Args:
        graph: The pivot.
        names: Values to observe; inputs of the graph are observed without running anything.
        samples: Rows that fit the pivot's signature; read batch by batch.
        context: Opens the session; progress and cancellation.
        estimator: ``"minmax"``, ``"percentile:P"`` (the central P percent), ``"mse"`` or
            ``"entropy"``.
        threads: Threads of the session.

    Raises:
        OptimizeError: ``LPT-OPT-013`` a value is NaN or infinite for some sample.
        SessionError: The runtime refuses or fails.
    """
    observers = {name: _observer(estimator) for name in names}
    inside = [n for n in names if n not in graph.inputs]
    parts, rows = plan(graph, inside, samples, context.limits.memory_bytes)
    bar = context.reporter.task(f"calibrate on {len(samples)} samples", len(samples) * len(parts))
    for number, group in enumerate(parts):
        inputs = [n for n in names if n in graph.inputs] if number == 0 else []
        left = len(samples) * (len(parts) - number)
        with observation_session(graph, group, context, number, threads, rows=left) as session:
            signature = session.signature
            for batch in batches(samples, signature, rows):
                context.checkpoint()
                found: dict[str, Any] = dict(session.run(batch.inputs)) if group else {}
                for name in (*group, *inputs):
                    array = batch.inputs[name] if name in inputs else found[name]
                    _update(observers[name], array, batch.valid_rows, batch.inputs)
                for array in samples.inputs.values():
                    release_pages(array)
                bar.advance(batch.valid_rows)
    bar.finish()
    return {name: _range(name, observers[name], estimator) for name in names}


def plan(
    graph: Graph, names: Sequence[str], samples: Samples, memory_limit: int | None = None
) -> tuple[list[list[str]], int]:
    """Divide values into runs and choose the rows of a batch.

    Args:
        graph: The pivot.
        names: Values to observe.
        samples: What is fed.
        memory_limit: Bytes that the process may take, if that is limited.

    Returns:
        Groups of values, one by one over all samples, and the rows fed at once where the batch is
        open, so that the outputs of one batch stay within :data:`GROUP_BYTES`, and within a share
        of the limit, if one value of one row does.
    """
    room = GROUP_BYTES
    if memory_limit is not None:
        room = min(room, memory_limit // SHARE_OF_LIMIT)
    need = {name: max(1, graph.row_bytes(name)) for name in names}
    most = max(1, min(BATCH, len(samples)))
    rows = min(most, max(1, room // max(1, sum(need.values()))))
    found: list[list[str]] = [[]]
    size = 0
    for name in names:
        if found[-1] and size + rows * need[name] > room:
            found.append([])
            size = 0
        found[-1].append(name)
        size += rows * need[name]
    return found, rows


@contextlib.contextmanager
def observation_session(
    graph: Graph,
    group: Sequence[str],
    context: Context,
    number: int,
    threads: int | None,
    *,
    rows: int = 0,
) -> Iterator[Any]:
    """Open a copy of the pivot that yields the values of *group*, on the runtime of the job.

    With *rows*, about as many as will be run, the session may move to a faster runtime on the way
    (:mod:`lepton_compress._runtime`).
    """
    if context.hooks is None:
        msg = "calibration needs a context with hooks"
        raise ValueError(msg)
    folder = context.workdir / f".calibration-{number:03d}"
    folder.mkdir()
    path = folder / "pivot.onnx"
    observed = _with_outputs(graph.model, group)
    pivot.save(observed, path)
    model = Model("pivot", str(path), signature=pivot.signature(observed), digest="")
    del observed
    memory.trim()
    hooks = context.hooks

    def opened(owner: str) -> Session:
        session = hooks.open(model, opening(owner, threads), _inside(context, folder))
        memory.trim()
        return session

    try:
        with contextlib.closing(Watched(opened, runtimes_of(context), context, rows)) as session:
            yield session
    finally:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _inside(context: Context, folder: Path) -> Context:
    from dataclasses import replace

    return replace(context, workdir=folder)


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return the model with *names* as its outputs; what they do not need is not computed."""
    if not names:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    infos = {v.name: v for v in (*copy.graph.value_info, *copy.graph.output)}
    wanted = []
    for name in names:
        info = infos.get(name)
        wanted.append(info or helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    kept = [type(v).FromString(v.SerializeToString()) for v in wanted]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


# --- observers ---------------------------------------------------------------------------------


def check_estimator(estimator: str) -> str:
    """Return a range estimator's name if it is one.

    Raises:
        OptimizeError: ``LPT-OPT-015``.
    """
    kind, _, value = estimator.partition(":")
    if kind in ("minmax", "mse", "entropy") and not value:
        return estimator
    if kind == "percentile":
        with contextlib.suppress(ValueError):
            if 50 < float(value or "99.99") <= 100:
                return f"percentile:{float(value or '99.99'):g}"
    raise OptimizeRequestError(
        "LPT-OPT-015",
        f"There is no range estimator {estimator!r}",
        cause="known are minmax, percentile:P (50 < P <= 100), mse and entropy",
        remedy="For example --option estimator=percentile:99.99.",
    )


def _observer(estimator: str) -> lk.RangeObserver | lk.HistogramObserver:
    return lk.RangeObserver() if estimator == "minmax" else lk.HistogramObserver(BINS)


def _update(observer: Any, array: Any, valid: int, inputs: Any) -> None:  # noqa: ANN401
    observer.update(valid_part(array, valid, inputs))


def valid_part(array: Any, valid: int, inputs: Any) -> Any:  # noqa: ANN401 - arrays
    """Return a batch's value without the rows that pad a fixed batch size."""
    array = np.asarray(array)
    fed = {len(a) for a in inputs.values() if np.ndim(a)}
    return array[:valid] if array.ndim and fed == {len(array)} else array


def _range(name: str, observer: Any, estimator: str) -> Range:  # noqa: ANN401
    infinite = (
        observer.infinite
        if isinstance(observer, lk.RangeObserver)
        else observer.positive_infinity + observer.negative_infinity
    )
    if observer.nan or infinite:
        raise OptimizeError(
            "LPT-OPT-013",
            f"The value {name!r} is not finite for some calibration samples",
            cause=f"{observer.nan} NaN and {infinite} infinities were seen",
            remedy="Remove the samples that overflow, or keep its operator float with "
            f"--option keep={name}.",
            details={"value": name},
        )
    if isinstance(observer, lk.RangeObserver):
        low, high = (float(v) for v in observer.result())
        return Range(low, high, low, high)
    kind, _, value = estimator.partition(":")
    if kind == "mse":
        found = observer.mse_threshold(8)
    elif kind == "entropy":
        found = observer.entropy_threshold(_levels(observer.low, observer.high))
    else:
        found = observer.percentile(float(value))
    return Range(float(observer.low), float(observer.high), float(found.low), float(found.high))


def _levels(low: float, high: float) -> int:
    """Return how many of the 256 integers stand for magnitudes of one sign."""
    return 255 if low >= 0 or high <= 0 else 128


__all__ = [
    "BATCH", "GROUP_BYTES", "Range", "check_estimator", "observation_session", "observe", "plan",
    "valid_part",
]  # fmt: skip
