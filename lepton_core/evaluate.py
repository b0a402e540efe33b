"""Running a model over samples: outputs for the proof, latency for the choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lepton_core._plugin_checks import check_backends
from lepton_core.files import disk_errors
from lepton_core.types import (
    REFERENCE_DEVICE,
    EvaluateRequest,
    EvaluateResult,
    OpenRequest,
    StageEvent,
    TimingPoint,
)

if TYPE_CHECKING:
    import numpy as np

    from lepton_core.context import Context, Session
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Model


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
        PluginFailureError: It raised something unexpected.
    """
    from lepton_core.samples import load_saved
    from lepton_core.timing import feeds, measure, race

    samples = load_saved(Path(request.samples))
    before = _resident_bytes() if request.memory else 0
    opening = OpenRequest(
        request.target,
        request.device,
        request.threads,
        request.reference,
        request.options,
        request.without,
    )
    with (
        hooks.guarded("evaluate", request.target),
        hooks.open(model, opening, context) as session,
    ):
        outputs: dict[str, str] = {}
        if request.out:
            outputs = _run_all(session, samples, Path(request.out), context)
        latency: dict[str, float] = {}
        raced: dict[str, Any] = {}
        timed = session.facts.get("device") != REFERENCE_DEVICE
        if request.rival is not None and timed:
            with hooks.open(request.rival, opening, context) as rival:
                raced = race(
                    (rival, session),
                    feeds(session.signature, samples, 1),
                    context.seed,
                    request.race_seconds,
                )
        if request.latency_seconds > 0 and timed:
            single = TimingPoint(seconds=request.latency_seconds)
            latency = measure(session, samples, single)
        timings = []
        for point in request.timings if timed else ():
            context.checkpoint()
            timings.append(measure(session, samples, point))
        added = _resident_bytes() - before if request.memory else 0
        return EvaluateResult(
            outputs,
            session.signature,
            dict(session.facts),
            len(samples),
            latency,
            tuple(timings),
            max(added, 0),
            raced,
        )


def _run_all(session: Session, samples: Samples, out: Path, context: Context) -> dict[str, str]:
    """Write every output over all rows, one memory-mapped file each."""
    from lepton_core.samples import collect_outputs

    bar = context.reporter.task(f"run {len(samples)} samples", len(samples))

    def advance(rows: int) -> None:
        context.checkpoint()
        bar.advance(rows)

    outputs = collect_outputs(
        session.run, samples, session.signature, directory=out, on_rows=advance
    )
    bar.finish()
    return {
        name: _saved(array, out, number) for number, (name, array) in enumerate(outputs.items())
    }


def _saved(array: np.ndarray, out: Path, number: int) -> str:
    """Return the path of an output's file; arrays without elements are not mapped but kept."""
    import numpy as np

    if isinstance(array, np.memmap):
        array.flush()
        return str(array.filename)
    path = out / f"output-{number:03d}.npy"
    np.save(path, array)
    return str(path)


def evaluate_isolated(
    hooks: Hooks, model: Model, request: EvaluateRequest, context: Context
) -> EvaluateResult:
    """Run :func:`evaluate` in the worker process of the plugin that opens the model.

    A plugin that lives only in this process is run here.

    Raises:
        LeptonError: What the session raised, or how the worker ended.
        PluginFailureError: The plugin raised something unexpected.
    """
    record = hooks.registry.record(request.target)
    check_backends(hooks.registry.info(request.target))
    event = StageEvent("evaluate", request.target, request.target, model.digest)
    with hooks.stage(event), disk_errors(f"outputs in {request.out}"):
        if hooks.pool is not None and record.entry is not None:
            result = hooks.pool.call("evaluate", request.target, model, request, context)
            return cast("EvaluateResult", result)
        return evaluate(hooks, model, request, context)


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


__all__ = ["evaluate", "evaluate_isolated"]
