"""What pruning gained and lost: time on the target, size of the artifact, accuracy."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_core.errors import LeptonError, OperationCancelledError
from lepton_core.timing import race
from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_torch._archive import save_program

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_core.context import Context, Session
    from lepton_core.samples import Samples
    from lepton_torch._program import Program

_LARGE = 32
"""Rows of the larger of the requests that are timed."""


@dataclass(frozen=True)
class Built:
    """A program as the target runs it.

    Attributes:
        model: The artifact.
        runtime: Plugin that runs it.
        size: Its bytes.
    """

    model: Model
    runtime: str
    size: int


def build(program: Program, target: str, folder: Path, context: Context) -> tuple[Built, str]:
    """Convert a program for a target; for torch itself where the target cannot be had here.

    Returns:
        The artifact, and why it is not the target's; empty if it is.
    """
    from lepton_core.artifacts import artifact_size
    from lepton_core.files import digest_path

    folder.mkdir(parents=True)
    path = folder / "model.pt2"
    save_program(program, path)
    plain = Model(
        "torch.export", str(path), None, program.signature, digest_path(path), (), program.notes
    )
    problem = "no other plugins can be called from here"
    if context.hooks is not None:
        inside = folder / "built"
        inside.mkdir()
        try:
            made = context.hooks.convert(
                plain, ConvertRequest(target), replace(context, workdir=inside)
            )
            with context.hooks.open(made.model, OpenRequest(target), context):
                return Built(made.model, target, artifact_size(made.model)), ""
        except OperationCancelledError:
            raise
        except LeptonError as error:
            problem = str(error)
    return Built(plain, "torch", artifact_size(plain)), problem


def build_both(
    before: Program, after: Program, target: str, folder: Path, context: Context
) -> tuple[Built, Built, str]:
    """Convert two programs for a target; both for torch where one of them cannot be had there.

    Returns:
        The artifacts, which one runtime runs, and why it is not the target's; empty if it is.
    """
    old, problem = build(before, target, folder / "before", context)
    new, later = build(after, target, folder / "after", context)
    if new.runtime != old.runtime:
        old, _ = build(before, "torch", folder / "before-torch", context)
        new, _ = build(after, "torch", folder / "after-torch", context)
    return old, new, problem or later


@contextlib.contextmanager
def _session(built: Built, context: Context) -> Any:  # noqa: ANN401 - a session
    if context.hooks is not None:
        opened: Session = context.hooks.open(built.model, OpenRequest(built.runtime), context)
    else:
        from lepton_torch._session import open_session

        found = open_session(built.model, OpenRequest("torch"), context)
        assert found is not None  # noqa: S101 - the format is torch's
        opened = found
    with opened as session:
        yield session


def compare_latency(
    before: Built, after: Built, requests: list[list[dict[str, Any]]], context: Context, seed: int
) -> list[dict[str, Any]]:
    """Time two artifacts in turn and return medians and the ratio with its interval.

    See :func:`lepton_core.timing.race`.

    Args:
        before: The original.
        after: The pruned one.
        requests: For each kind of request its inputs, used in turn.
        context: Opens sessions.
        seed: Seed of the resampling.

    Returns:
        For each kind ``before_ms``, ``after_ms``, ``speedup``, ``interval`` (95 %), ``rows`` of a
        request and the ``runtime``.
    """
    with _session(before, context) as old, _session(after, context) as new:
        return [_compare((old, new), feeds, seed) for feeds in requests]


def _compare(pair: tuple[Session, Session], feeds: list[dict[str, Any]], seed: int) -> Any:  # noqa: ANN401
    return {
        **race(pair, feeds, seed),
        "rows": next((len(a) for a in feeds[0].values() if a.ndim), 1),
        "runtime": str(pair[1].facts.get("runtime", "")),
    }


def request_rows(program: Program) -> tuple[int, ...]:
    """Return the rows of the requests that are timed: one, and 32 where the batch is open."""
    first = program.signature.inputs[0].shape[:1]
    if not first or not isinstance(first[0], str):
        return (1,)
    least, most = program.bounds.get(first[0], (1, None))
    few, many = max(1, least), min(_LARGE, most or _LARGE)
    return (few, many) if many > few else (few,)


def feeds_for(program: Program, samples: Samples | None, rows: int, seed: int) -> Any:  # noqa: ANN401
    """Return inputs of one request each: real ones where there are some."""
    from lepton_core.samples import random_samples
    from lepton_core.timing import feeds

    held = samples if samples is not None else random_samples(program.signature, rows, seed=seed)
    return feeds(program.signature, held, rows)


def outputs_of(program: Program, samples: Samples) -> dict[str, Any]:
    """Run a program on torch over rows and return its outputs by name."""
    import torch

    from lepton_core.samples import collect_outputs
    from lepton_torch._session import TorchSession

    device, threads = torch.device("cpu"), torch.get_num_threads()
    with TorchSession(program, device, threads, reference=True) as session:
        return collect_outputs(session.run, samples, session.signature)


def accuracy(
    reference: dict[str, Any],
    outputs: dict[str, Any],
    samples: Samples,
    notes: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Return metric, value before and after, drop, and the numbers of rows."""
    from lepton_core.metrics import choose_metric, measure

    choice = choose_metric(None, reference, samples.labels, notes)
    found = measure(choice, reference, outputs, samples.labels)
    return {
        "metric": found.metric.name,
        "output": found.output,
        "before": float(found.source),
        "after": float(found.variant),
        "drop": float(found.drop),
        "rows": len(samples),
    }


__all__ = [
    "Built",
    "accuracy",
    "build",
    "build_both",
    "compare_latency",
    "feeds_for",
    "outputs_of",
    "request_rows",
]
