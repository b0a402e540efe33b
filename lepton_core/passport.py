"""Passports: what a variant is, how it was compared with its source, and the verdict.

A passport is plain data, strict JSON, described field by field in ``docs/reference/passport.md``:

.. code-block:: text

    schema          1
    created         ISO 8601 time, or null
    source          format path digest size_bytes lineage[]
    variant         target precision format path digest size_bytes storage_precision
                    execution_precision session{} lineage[]
    samples         origin source n distinct digest constant labels split{seed,
                    calibration{n, digest}} coverage
    outputs         {name: errors}, see below
    metric          name output unit higher_is_better source variant drop changed{k, n} why
    latency         variant{p50_ms p95_ms batch threads runs} source{...}
    limits          all limits, and the ones that applied
    verdict         verdict why reasons[] proved budget bound{k n confidence upper claim}
    worst           [{row, error, loss}], by falling error; row numbers of the user's samples
    picture         errors per sample and joint density of values, for the page
    environment     os cpu python packages …
    warnings        [text]
    devices         [{platform os chip runtime{} created proof golden{} runs[] verdict why}]:
                    what devices measured, merged later; see lepton_core._device_proof

Numbers that JSON does not have are encoded: NaN ("not defined") as ``null``, infinities as the
strings ``"Infinity"`` and ``"-Infinity"``, which Python's ``float`` and JavaScript's ``Number``
read back. A passport holds no sample, only errors, counts and row numbers.

This is a work module: it imports numpy, and ``import lepton_core`` does not import it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core import environment as machine
from lepton_core._passport_parts import compare, picture, worst
from lepton_core._passport_schema import decode_number, encode, validate_passport
from lepton_core.artifacts import artifact_files
from lepton_core.files import digest_path
from lepton_core.metrics import choose_metric, measure, row_errors
from lepton_core.samples import is_constant
from lepton_core.verdicts import Limits, MetricFacts, SampleFacts, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_core.metrics import Choice, Measurement
    from lepton_core.samples import Samples
    from lepton_core.types import Model

    Array = NDArray[Any]

SCHEMA = 1


class Passport(dict[str, Any]):
    """A passport as plain data, with its verdict at hand.

    Args:
        data: What :func:`make_passport` or :func:`load_passport` returned.
        path: Where it is written, if it is.
    """

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        super().__init__(data)
        self.path = path

    @property
    def verdict(self) -> str:
        """``"pass"``, ``"weak"`` or ``"fail"``."""
        return str(self["verdict"]["verdict"])

    @property
    def why(self) -> str:
        """The reasons in one sentence or two."""
        return str(self["verdict"]["why"])

    @property
    def proved(self) -> bool:
        """Whether the bound that the samples support fits the budget."""
        return bool(self["verdict"]["proved"])


def make_passport(
    *,
    source: Model,
    variant: Model,
    target: str,
    precision: str,
    reference: Mapping[str, Array],
    actual: Mapping[str, Array],
    held_out: Samples,
    calibration: Samples | None = None,
    split_seed: int | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    limits: Limits | None = None,
    session_facts: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | None = None,
    source_latency: Mapping[str, Any] | None = None,
    size_bytes: int | None = None,
    source_size_bytes: int | None = None,
    coverage: float | None = None,
    environment: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    created: str | None = None,
) -> dict[str, Any]:
    """Compare a variant's outputs with the source's and write down everything that follows.

    Args:
        source: The source model; its metadata helps to choose the metric.
        variant: The artifact that was run.
        target: Target string.
        precision: The variant's precision.
        reference: The source's outputs on the held-out rows, ``N`` rows first, by output name.
        actual: The variant's outputs on the same rows. Both may be memory-mapped; they are read
            in pieces.
        held_out: The rows, after :func:`lepton_core.samples.match`.
        calibration: The rows that calibrated, if any.
        split_seed: Seed of the split, if there was one.
        metric: ``NAME[:OUTPUT]``, or ``None`` for the rules of :mod:`lepton_core.metrics`.
        max_drop: Budget in the metric's own unit, or ``None`` for the limits' default.
        limits: Limits to judge by; the defaults if not given.
        session_facts: ``session.facts`` of the variant, with ``storage_precision`` and
            ``execution_precision``.
        latency: ``{p50_ms, p95_ms, batch, threads, runs}`` of the variant.
        source_latency: The same of the source.
        size_bytes: Size of the variant's artifact; measured at ``variant.path`` if not given.
        source_size_bytes: Size of the source; measured if not given.
        coverage: Share of the calibrated ranges that the held-out rows reach, where known.
        environment: Facts about this machine; :func:`lepton_core.environment.describe` if not
            given.
        warnings: What the user should know.
        created: Time to record; none keeps the passport a function of its inputs.

    Returns:
        A passport of schema 1, JSON types only.

    Raises:
        UsageError: ``LPT-METRIC-00x`` the metric asked for cannot be measured.
        SampleError: ``LPT-DATA-018`` the labels do not fit the output.
    """
    limits = limits or Limits()
    errors = {name: compare(array, actual.get(name)) for name, array in reference.items()}
    measured = None
    choice = choose_metric(metric, reference, held_out.labels, source.metadata)
    if not errors[choice.output].get("problem"):
        measured = measure(choice, reference, actual, held_out.labels)
    first = _first_of_equals(held_out)
    facts = _sample_facts(held_out, coverage)
    verdict = judge(
        precision,
        errors,
        _metric_facts(measured, first),
        facts,
        limits=limits,
        max_drop=max_drop,
    )
    rows = None
    if measured is not None:
        rows = row_errors(reference[choice.output], actual[choice.output])
    session = dict(session_facts or {})
    passport = {
        "schema": SCHEMA,
        "created": created,
        "source": _model(source, source_size_bytes),
        "variant": {
            "target": target,
            "precision": precision,
            "storage_precision": session.get("storage_precision", precision),
            "execution_precision": session.get("execution_precision"),
            "session": session,
            **_model(variant, size_bytes),
        },
        "samples": _samples(held_out, calibration, split_seed, facts),
        "outputs": errors,
        "metric": _metric(measured, len(held_out)),
        "latency": {"variant": _copy(latency), "source": _copy(source_latency)},
        "limits": {**limits.to_dict(), "applied": asdict(limits.of(precision))},
        "verdict": asdict(verdict),
        "worst": worst(rows, measured, held_out),
        "picture": picture(choice.output, reference, actual, rows, measured),
        "environment": dict(environment or machine.describe()),
        "warnings": [*held_out.notes, *_doubts(choice, errors), *warnings],
    }
    encoded: dict[str, Any] = encode(passport)
    return encoded


def variant_summary(passport: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a passport that ``lepton port --json`` prints for a variant.

    ``errors`` are the worst over all outputs that are compared number by number.

    Returns:
        ``metrics {name, source, variant, drop}`` or ``None``, ``errors {max_abs, rel_l2, sqnr_db,
        cosine}``, ``gain`` or ``None``, ``verdict``, ``proof`` (its kind, where the session tells)
        or ``None``, ``why``, ``warnings``, ``latency_ms {p50, p95}`` or ``None``, ``size_bytes``.
    """
    metric, latency = passport["metric"], passport["latency"]["variant"]
    numeric = [o for o in passport["outputs"].values() if "rel_l2" in o and not o["exact"]]
    numeric = numeric or [o for o in passport["outputs"].values() if "rel_l2" in o]
    errors: dict[str, Any] = {
        name: encode(_worst_of([decode_number(o[name]) for o in numeric], pick))
        for name, pick in (("max_abs", max), ("rel_l2", max), ("sqnr_db", min), ("cosine", min))
    }
    return {
        "size_bytes": passport["variant"]["size_bytes"],
        "latency_ms": latency and {"p50": latency["p50_ms"], "p95": latency["p95_ms"]},
        "metrics": metric and {key: metric[key] for key in ("name", "source", "variant", "drop")},
        "errors": errors,
        "gain": passport.get("gain"),
        "verdict": passport["verdict"]["verdict"],
        "proof": passport["variant"]["session"].get("proof"),
        "why": passport["verdict"]["why"],
        "warnings": list(passport["warnings"]),
    }


def dump_passport(passport: Mapping[str, Any]) -> str:
    """Return a passport as strict JSON text, the same text for the same passport.

    Raises:
        LeptonError: ``LPT-PASS-001`` it is not a valid passport.
    """
    validate_passport(passport)
    return json.dumps(passport, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def load_passport(path: str | Path) -> dict[str, Any]:
    """Read a passport and check its schema.

    Raises:
        LeptonError: ``LPT-PASS-001`` it cannot be read or is not a valid passport,
            ``LPT-PASS-002`` it is of a later schema.
    """
    from lepton_core._passport_schema import invalid

    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    validate_passport(data)
    loaded: dict[str, Any] = data
    return loaded


def _first_of_equals(samples: Samples) -> NDArray[np.bool_]:
    """Mark each row whose inputs no earlier row has; equal rows are not independent trials."""
    if samples.distinct == len(samples):
        return np.ones(len(samples), bool)
    _, first = np.unique(np.array(samples.row_keys, dtype="S16"), return_index=True)
    mask = np.zeros(len(samples), bool)
    mask[first] = True
    return mask


def _sample_facts(samples: Samples, coverage: float | None) -> SampleFacts:
    n, distinct = len(samples), samples.distinct
    return SampleFacts(samples.origin, n, distinct, is_constant(samples), coverage)


def _metric_facts(measured: Measurement | None, first: NDArray[np.bool_]) -> MetricFacts | None:
    if measured is None:
        return None
    return MetricFacts(
        measured.metric.name,
        measured.source,
        measured.variant,
        measured.drop,
        measured.metric.share,
        measured.per_sample[first].tolist(),
        None if measured.changed is None else int(measured.changed[first].sum()),
    )


# --- blocks ------------------------------------------------------------------------------------


def _model(model: Model, size: int | None) -> dict[str, Any]:
    main, *others = artifact_files(model) if Path(model.path).is_file() else (Path(),)
    beside = {path.relative_to(main.parent).as_posix(): digest_path(path) for path in others}
    return {
        **({"files": beside} if beside else {}),
        "format": model.format,
        "path": model.path,
        "entry": model.entry,
        "digest": model.digest,
        "size_bytes": _size(model.path) if size is None else size,
        "lineage": [asdict(step) for step in model.lineage],
    }


def _size(path: str) -> int | None:
    place = Path(path)
    if place.is_file():
        return place.stat().st_size
    if place.is_dir():
        return sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    return None


def _samples(
    held_out: Samples, calibration: Samples | None, seed: int | None, facts: SampleFacts
) -> dict[str, Any]:
    used = None
    if calibration is not None:
        used = {"n": len(calibration), "digest": calibration.digest}
    return {
        "origin": held_out.origin,
        "source": held_out.source,
        "n": facts.n,
        "distinct": facts.distinct,
        "constant": facts.constant,
        "digest": held_out.digest,
        "labels": held_out.labels is not None,
        "split": {"seed": seed, "calibration": used},
        "coverage": facts.coverage,
    }


def _doubts(choice: Choice, errors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the user should know of labels and of the source's own outputs."""
    broken = [
        f"the source's output {name!r} has {found['nan_reference']} NaN of {found['count']} "
        "values; that the variant has the same proves nothing about them"
        for name, found in errors.items()
        if found.get("nan_reference")
    ]
    return [*filter(None, [choice.warning]), *broken]


def _metric(measured: Measurement | None, n: int) -> dict[str, Any] | None:
    if measured is None:
        return None
    changed = None
    if measured.changed is not None:
        changed = {"k": int(measured.changed.sum()), "n": n}
    return {
        "name": measured.metric.name,
        "output": measured.output,
        "unit": measured.metric.unit,
        "higher_is_better": measured.metric.higher_is_better,
        "source": measured.source,
        "variant": measured.variant,
        "drop": measured.drop,
        "changed": changed,
        "why": measured.why,
    }


def _copy(latency: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if latency is None else dict(latency)


def _worst_of(values: list[float], pick: Any) -> float:  # noqa: ANN401 - min or max
    return math.nan if not values or any(map(math.isnan, values)) else float(pick(values))


__all__ = [
    "SCHEMA",
    "Passport",
    "dump_passport",
    "load_passport",
    "make_passport",
    "validate_passport",
    "variant_summary",
]
