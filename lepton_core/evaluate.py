"""Running a model over samples: outputs for the proof, latency for the choice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SessionError
from lepton_core.types import EvaluateRequest, EvaluateResult, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from lepton_core.context import Context, Session
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Model

_WARM_UP_RUNS = 5
_MIN_RUNS = 20
_MAX_RUNS = 2000


def evaluate(
    hooks: Hooks, model: Model, request: EvaluateRequest, context: Context
) -> EvaluateResult:
    """Open a model and run it over saved samples; called in the runtime's worker.

    Args:
        hooks: Opens the session.
        model: An artifact that the target opens.
        request: Samples, where outputs go, and whether to time.
        context: Progress and cancellation.

    Returns:
        Paths of the outputs, and what the session told.

    Raises:
        SessionError: The runtime refused the model or failed on a sample.
    """
    from lepton_core.samples import load_saved

    samples = load_saved(Path(request.samples))
    opening = OpenRequest(request.target, request.device, request.threads, request.reference)
    with hooks.open(model, opening, context) as session:
        outputs: dict[str, str] = {}
        if request.out:
            outputs = _run_all(session, samples, Path(request.out), context)
        latency: dict[str, float] = {}
        if request.latency_seconds > 0:
            latency = measure_latency(session, samples, request.latency_seconds)
        return EvaluateResult(
            outputs, session.signature, dict(session.facts), len(samples), latency
        )


def _run_all(session: Session, samples: Samples, out: Path, context: Context) -> dict[str, str]:
    """Write every output over all rows, one memory-mapped file each."""
    import numpy as np

    from lepton_core.samples import batches

    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, np.ndarray] = {}
    paths = {}
    done = 0
    bar = context.reporter.task(f"run {len(samples)} samples", len(samples))
    for inputs, valid in batches(samples, session.signature):
        context.checkpoint()
        results = session.run(inputs)
        for index, (name, value) in enumerate(results.items()):
            rows = _rows(name, value, valid, inputs)
            if name not in files:
                paths[name] = str(out / f"{index:03d}.npy")
                files[name] = np.lib.format.open_memmap(
                    paths[name], "w+", rows.dtype, (len(samples), *rows.shape[1:])
                )
            _store(files[name], name, done, rows)
        done += valid
        bar.advance(valid)
    bar.finish()
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]
    return paths


def _rows(name: str, value: np.ndarray, valid: int, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one row per sample: the valid part of a batch, or the whole for a single one."""
    batch = max((a.shape[0] for a in inputs.values() if a.ndim), default=1)
    if value.ndim and value.shape[0] == batch:
        return value[:valid]
    if valid == 1:
        return value[None]
    raise SessionError(
        "LPT-RUN-001",
        f"The output {name!r} has shape {list(value.shape)} for a batch of {batch} samples",
        cause="Its first dimension is not the batch, so it cannot be compared per sample.",
        remedy="Give the model a batch dimension on this output, or samples with batch size 1.",
    )


def _store(file: np.ndarray, name: str, start: int, rows: np.ndarray) -> None:
    if file.shape[1:] != rows.shape[1:]:
        raise SessionError(
            "LPT-RUN-002",
            f"The output {name!r} changes its shape from sample to sample: "
            f"{list(file.shape[1:])}, then {list(rows.shape[1:])}",
            remedy="Outputs of variable size cannot be compared yet; pad them inside the model.",
        )
    file[start : start + len(rows)] = rows


def measure_latency(session: Session, samples: Samples, seconds: float) -> dict[str, float]:
    """Time single requests, one sample each, after a warm-up.

    Args:
        session: An open session.
        samples: Where inputs come from, in turn.
        seconds: How long to go on, once the least number of runs is reached.

    Returns:
        ``p50_ms``, ``p95_ms``, ``mean_ms``, ``runs`` and ``batch``.
    """
    import numpy as np

    from lepton_core.samples import batches

    few = samples.rows(np.arange(min(len(samples), 16)))
    feeds: list[dict[str, Any]] = [i for i, _ in batches(few, session.signature, batch_size=1)]
    for index in range(_WARM_UP_RUNS):
        session.run(feeds[index % len(feeds)])
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _MAX_RUNS:
        feed = feeds[len(times) % len(feeds)]
        start = time.perf_counter()
        session.run(feed)
        now = time.perf_counter()
        times.append(now - start)
        if now - began > seconds and len(times) >= _MIN_RUNS:
            break
    ms = np.asarray(times) * 1000.0
    batch = next((a.shape[0] for a in feeds[0].values() if a.ndim), 1)
    return {
        "p50_ms": float(np.percentile(ms, 50)),
        "p95_ms": float(np.percentile(ms, 95)),
        "mean_ms": float(ms.mean()),
        "runs": float(len(times)),
        "batch": float(batch),
    }


__all__ = ["evaluate", "measure_latency"]
