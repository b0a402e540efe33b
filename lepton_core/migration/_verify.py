"""The third step: is what was built still the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import (
    DeployError,
    MigrateError,
    PluginFailureError,
    SampleError,
    SessionError,
    WorkerError,
)
from lepton_core.migration._build import check_runs_here, run_isolated
from lepton_core.passport import make_passport, variant_summary
from lepton_core.verdicts import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.migration._options import Options
    from lepton_core.samples import Samples
    from lepton_core.types import EvaluateResult, Model, OpenRequest, Signature

    Array = NDArray[Any]

RANDOM_ROWS = 64


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: How it is called in the passport (``"digits@v0123"``).
        target: Target string.
        model: The artifact, where it can be opened.
        golden: Folder of its golden pairs, if it has any.
        opening: How the deployment's sessions are opened on its target.
        size_bytes: Bytes of its artifact.
    """

    name: str
    target: str
    model: Model
    golden: Path | None
    opening: OpenRequest
    size_bytes: int


@dataclass(frozen=True)
class Proof:
    """What the comparison gave.

    Attributes:
        passport: Passport of the candidate, against the old version.
        verdict: ``"pass"``, ``"weak"`` or ``"fail"``.
        why: The reasons.
        facts: The numbers, for the journal and the user (JSON types).
    """

    passport: Mapping[str, Any]
    verdict: str
    why: str
    facts: Mapping[str, Any]


def compare(
    hooks: Hooks, old: Side, new: Side, precision: str, *, options: Options, context: Context
) -> Proof:
    """Run both versions on the same inputs, each in its runtime's worker, and judge.

    Inputs are those of ``options.data``; without them the golden inputs of the old version if
    they are real, else noise, and then the verdict is weak at best. What the candidate answers to
    the golden inputs is held against what the old version answered when it was deployed.

    Args:
        hooks: Calls the plugins.
        old: What is deployed.
        new: What was built.
        precision: Precision of both; its class selects the limits.
        options: What was asked for.
        context: Where to write.

    Raises:
        SampleError: The samples do not fit the model.
        MigrateError: LPT-MIG-007, the candidate does not open, fails on a sample, or crashes its
            runtime; only its worker ends. LPT-MIG-011, this machine only interprets it.
        SessionError: The runtime of the old version failed.
        UsageError: LPT-METRIC-00x, the metric cannot be measured.
    """
    samples, first, second = _run_both(hooks, old, new, options, context)
    check_runs_here(new.target, second.facts, old.name)  # without golden pairs nothing has yet
    passport = make_passport(
        source=old.model.evolve(path=old.name),
        variant=new.model.evolve(path=new.name),
        target=new.target,
        precision=precision or "fp32",
        reference=_outputs(first),
        actual=_outputs(second),
        held_out=samples,
        metric=options.metric,
        max_drop=options.max_drop,
        session_facts=second.facts,
        latency=_latency(second),
        source_latency=_latency(first),
        size_bytes=new.size_bytes,
        source_size_bytes=old.size_bytes,
    )
    verdict, why = passport["verdict"]["verdict"], passport["verdict"]["why"]
    problems = [p for p in (_signature(first, second, new.name),) if p]
    golden = _golden(old.golden, new.golden, precision)
    if golden is not None and not golden["within"]:
        problems.append(
            f"on the golden inputs, output {golden['output']!r} is off by a relative L2 of "
            f"{golden['rel_l2']:.2g}, more than {golden['limit']:g}"
        )
    if problems:
        verdict, why = "fail", "; ".join(problems if verdict != "fail" else [*problems, why])
    return Proof(passport, verdict, why, _facts(passport, golden, verdict, why))


def _run_both(
    hooks: Hooks, old: Side, new: Side, options: Options, context: Context
) -> tuple[Samples, EvaluateResult, EvaluateResult]:
    from lepton_core.samples import save

    signature = old.model.signature or new.model.signature
    if signature is None:
        msg = "a stored version has a signature"
        raise RuntimeError(msg)
    samples = _samples(signature, old.golden, options, context.seed)
    folder = save(samples, context.workdir / "samples")

    def run(side: Side, name: str) -> EvaluateResult:
        context.checkpoint()
        return run_isolated(
            hooks, side.model, side.opening, folder, context,
            name=name, latency_seconds=options.latency_seconds,
        )  # fmt: skip

    first = run(old, "old")
    try:
        return samples, first, run(new, "new")
    except (SessionError, WorkerError, SampleError, PluginFailureError) as error:
        raise MigrateError(
            "LPT-MIG-007",
            f"The candidate for {new.target} does not run here as {old.name} does",
            cause=str(error),
            remedy="The deployment is as it was; `lepton port --to` and `lepton check` say more "
            "about the target.",
            details=error.to_dict(),
        ) from error


def check_samples(signature: Signature | None, options: Options) -> None:
    """Refuse samples that do not fit, before anything takes long.

    Raises:
        SampleError: They cannot be read, or do not fit the model.
        UsageError: LPT-METRIC-001, there is no such metric.
    """
    from lepton_core.metrics import find_metric
    from lepton_core.samples import load_samples, match

    if options.metric is not None:
        find_metric(options.metric)
    if options.data is not None and signature is not None:
        match(load_samples(options.data), signature)


def _samples(signature: Signature, golden: Path | None, options: Options, seed: int) -> Samples:
    """Return the rows to compare on: recorded ones, else real golden ones, else noise."""
    from lepton_core.deployment._golden import real_rows
    from lepton_core.samples import load_samples, match, random_samples

    if options.data is not None:
        return match(load_samples(options.data), signature)
    kept = real_rows(golden, signature) if golden is not None else None
    return kept or random_samples(signature, RANDOM_ROWS, seed)


def _outputs(result: EvaluateResult) -> dict[str, Array]:
    return {name: np.load(path, mmap_mode="r") for name, path in result.outputs.items()}


def _latency(result: EvaluateResult) -> dict[str, Any] | None:
    measured = result.latency
    if not measured:
        return None
    return {
        "p50_ms": measured["p50_ms"],
        "p95_ms": measured["p95_ms"],
        "batch": int(measured["batch"]),
        "runs": int(measured["runs"]),
        "threads": result.facts.get("threads"),
    }


def _signature(old: EvaluateResult, new: EvaluateResult, name: str) -> str:
    """Return why the callers of the old version could not call the new one, if so."""
    from lepton_core.deployment._signature import check_replaces

    try:
        check_replaces(old.signature, new.signature, name)
    except DeployError as error:
        return f"its signature does not fit the callers: {error.cause}"
    return ""


def _golden(old: Path | None, new: Path | None, precision: str) -> dict[str, Any] | None:
    """Compare what both answer to the golden inputs; the worst output counts."""
    from lepton_core.deployment._golden import origin_of, read_golden, rel_l2

    if old is None or new is None:
        return None
    limit = Limits().of(precision or "fp32").rel_l2
    inputs, expected, _ = read_golden(old)
    _, actual, _ = read_golden(new)
    worst, where = -1.0, ""
    for name, array in expected.items():
        error = rel_l2(array, actual[name]) if name in actual else float("inf")
        if error > worst:
            worst, where = error, name
    return {
        "origin": origin_of(old),
        "rows": max((len(a) for a in inputs.values() if a.ndim), default=1),
        "output": where,
        "rel_l2": worst if np.isfinite(worst) else None,
        "limit": limit,
        "within": bool(worst <= limit),
    }


def _facts(
    passport: Mapping[str, Any], golden: dict[str, Any] | None, verdict: str, why: str
) -> dict[str, Any]:
    bound, samples = passport["verdict"]["bound"], passport["samples"]
    outputs = {
        name: {key: one.get(key) for key in ("rel_l2", "cosine", "max_abs", "mismatched_rows")}
        | ({"problem": one["problem"]} if one.get("problem") else {})
        for name, one in passport["outputs"].items()
    }
    return {
        "verdict": verdict,
        "verdict_why": why,
        "proved": bool(passport["verdict"]["proved"]) and verdict == "pass",
        "claim": None if bound is None else bound["claim"],
        "samples": {
            key: samples[key] for key in ("origin", "source", "n", "distinct", "digest", "labels")
        },
        "outputs": outputs,
        "limits": passport["limits"]["applied"],
        "metric": passport["metric"],
        "summary": variant_summary(passport),
        "latency": passport["latency"],
        "golden": golden,
        "worst": passport["worst"],
    }


__all__ = ["Proof", "Side", "check_samples", "compare"]
