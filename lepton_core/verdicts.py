"""Verdicts: limits as data, and the rules that turn measurements into pass, weak or fail.

**pass**: every output stays within the numeric limits of the precision's class, and the metric's
drop is within the budget. **weak**: nothing failed, but the samples cannot carry the claim: they
are random or constant, too few, or cover too little of the ranges that were calibrated.
**fail**: everything else; a NaN or an infinity that the source does not have always fails.

A passing variant is *proved* only if the bound that its samples support fits the budget itself:
600 samples without a change bound a loss at 0.5 % (95 % confidence), so they prove a budget of
0.005 and not one of 0.001. For metrics that are no share of samples, the bound is on the share of
samples whose own loss exceeds the budget, and must not exceed :attr:`Limits.tail_share`.

Defaults of the budget, when none is given: for shares of samples :attr:`ClassLimits.max_drop` of
the precision's class; for cosine and relative L2 the class's own numeric limit; for other units
there is none, and the numeric limits alone decide.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from lepton_core.errors import UsageError
from lepton_core.statistics import binomial_upper, describe_bound, percent, samples_needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VerdictName = Literal["pass", "weak", "fail"]

_SLACK = 1e-9
"""Relative slack of comparisons with a budget: 0.97 - 0.965 is a hair above 0.005 in floats."""


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """Limits of one class of precisions.

    Attributes:
        rel_l2: Largest relative L2 error of any output.
        cosine: Smallest cosine of any output with the source's.
        max_drop: Budget of metrics that are a share of samples, where the user gives none.
    """

    rel_l2: float
    cosine: float
    max_drop: float


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of a verdict.

    Attributes:
        fp32: Limits of float32 and float64 variants.
        half: Limits of float16 and bfloat16 variants.
        compressed: Limits of every other precision.
        min_samples: Distinct held-out samples below which nothing better than weak is said.
        confidence: Confidence of bounds.
        tail_share: For metrics that are no share of samples: the largest share of samples beyond
            the budget that still counts as proved.
        min_coverage: Smallest share of calibrated ranges that the held-out samples must reach.
    """

    fp32: ClassLimits = field(default_factory=lambda: ClassLimits(1e-4, 0.9999, 0.001))
    half: ClassLimits = field(default_factory=lambda: ClassLimits(2e-2, 0.999, 0.005))
    compressed: ClassLimits = field(default_factory=lambda: ClassLimits(0.15, 0.98, 0.01))
    min_samples: int = 30
    confidence: float = 0.95
    tail_share: float = 0.01
    min_coverage: float = 0.5

    def of(self, precision: str) -> ClassLimits:
        """Return the limits of a precision's class."""
        limits: ClassLimits = getattr(self, precision_class(precision))
        return limits

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as JSON types; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Limits:
        """Build limits from JSON types; what is left out keeps its default.

        Raises:
            UsageError: ``LPT-LIMIT-001`` an unknown name, ``LPT-LIMIT-002`` a value that is no
                number or out of range.
        """
        default = cls()
        _check_names(data, cls, "limits")
        changes: dict[str, Any] = {}
        for name, value in data.items():
            if name in _CLASSES:
                base = asdict(getattr(default, name))
                _check_names(value, ClassLimits, f"limits of {name}")
                changes[name] = ClassLimits(**{**base, **_numbers(value, f"{name}.")})
            else:
                changes |= _numbers({name: value}, "")
        return cls(**changes)


_CLASSES = ("fp32", "half", "compressed")
_FULL = {"fp32", "float32", "fp64", "float64"}
_HALF = {"fp16", "float16", "bf16", "bfloat16"}
_RANGES = {
    "rel_l2": (0.0, math.inf),
    "cosine": (-1.0, 1.0),
    "max_drop": (0.0, math.inf),
    "min_samples": (1, math.inf),
    "confidence": (0.5, 0.999999),
    "tail_share": (0.0, 1.0),
    "min_coverage": (0.0, 1.0),
}


def precision_class(precision: str) -> str:
    """Return ``"fp32"``, ``"half"`` or ``"compressed"``."""
    name = precision.lower()
    if name in _FULL:
        return "fp32"
    return "half" if name in _HALF else "compressed"


def _check_names(data: object, kind: type, what: str) -> None:
    from collections.abc import Mapping

    known = [f.name for f in fields(kind)]
    if isinstance(data, Mapping) and all(name in known for name in data):
        return
    given = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
    raise UsageError(
        "LPT-LIMIT-001",
        f"These are not {what}: {given}",
        cause=f"known are {', '.join(known)}",
        remedy="Give a JSON object with some of these names.",
    )


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    for name, value in values.items():
        low, high = _RANGES[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = name != "min_samples" or isinstance(value, int)
        if not (number and whole and low <= value <= high):
            raise UsageError(
                "LPT-LIMIT-002",
                f"The limit {prefix}{name} cannot be {value!r}",
                remedy=f"Give a number from {low:g} to {high:g}.",
            )
    return dict(values)


@dataclass(frozen=True, slots=True)
class Bound:
    """What the samples support about the loss.

    Attributes:
        k: Distinct samples that lost something (or whose loss exceeds the budget).
        n: Distinct samples.
        confidence: Confidence of the bound.
        upper: Upper bound on the share of all inputs for which that happens.
        claim: The bound in words.
    """

    k: int
    n: int
    confidence: float
    upper: float
    claim: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one variant.

    Attributes:
        verdict: ``"pass"``, ``"weak"`` or ``"fail"``.
        why: The reasons in one sentence or two.
        reasons: Every reason against a clean pass, gravest first; empty for one.
        proved: Whether it passes and the bound fits the budget.
        budget: Budget that the drop was held against, ``None`` if there is none for its unit.
        bound: What the samples support; ``None`` without a metric.
    """

    verdict: VerdictName
    why: str
    reasons: tuple[str, ...]
    proved: bool
    budget: float | None
    bound: Bound | None


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """What a judge needs to know about a measured metric.

    Attributes:
        name: Its name.
        source: Value of the source.
        variant: Value of the variant.
        drop: Loss in the metric's unit, positive is worse.
        share: Whether a drop is a share of samples.
        losses: Each distinct sample's own loss.
        changed: How many distinct samples' classes changed, for shares of samples.
    """

    name: str
    source: float
    variant: float
    drop: float
    share: bool
    losses: Sequence[float]
    changed: int | None = None


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What a judge needs to know about the held-out samples.

    Attributes:
        origin: Where they came from; ``"random"`` carries no claim.
        n: How many.
        distinct: How many differ in their inputs.
        constant: Whether all rows are equal.
        coverage: Share of the calibrated ranges that they reach, where that is known.
    """

    origin: str
    n: int
    distinct: int
    constant: bool = False
    coverage: float | None = None


def judge(
    precision: str,
    outputs: Mapping[str, Mapping[str, Any]],
    metric: MetricFacts | None,
    samples: SampleFacts,
    *,
    limits: Limits | None = None,
    max_drop: float | None = None,
) -> Verdict:
    """Judge a variant by the rules of this module.

    Args:
        precision: The variant's precision; its class selects the limits.
        outputs: Comparison of each output: ``rel_l2`` and ``cosine`` as numbers (NaN where
            undefined), ``nonfinite_mismatched`` as a count, ``exact`` for outputs that are equal
            or not, with ``mismatched_rows`` and ``rows``, or ``problem`` in words if the outputs
            cannot be compared at all.
        metric: The measured metric; ``None`` if outputs could not be compared.
        samples: Facts about the held-out samples.
        limits: Limits to apply; the defaults if not given.
        max_drop: Budget in the metric's unit; the default of :func:`budget_of` if not given.
    """
    limits = limits or Limits()
    own = limits.of(precision)
    budget = budget_of(metric.name, own, max_drop, share=metric.share) if metric else max_drop
    bound = _bound(metric, budget, limits) if metric else None
    failures = output_failures(precision, outputs, own)
    lost = _metric_failures(metric, budget)
    doubts = _doubts(samples, limits)
    if samples.origin == "random":  # what a metric says about noise decides nothing
        doubts += lost
    else:
        failures += lost
    reasons = (*failures, *doubts)
    if reasons:
        verdict: VerdictName = "fail" if failures else "weak"
        return Verdict(verdict, "; ".join(reasons), reasons, False, budget, bound)
    proved = _proves(metric, budget, bound, limits)
    why = _praise(metric, budget, bound, limits, proved=proved)
    return Verdict("pass", why, (), proved, budget, bound)


def budget_of(name: str, own: ClassLimits, max_drop: float | None, *, share: bool) -> float | None:
    """Return the budget of a metric: what the user gave, else the default of this module."""
    if max_drop is not None:
        return max_drop
    if share:
        return own.max_drop
    return {"cosine": round(1.0 - own.cosine, 12), "rel_l2": own.rel_l2}.get(name)


def _within(value: float, budget: float) -> bool:
    return value <= budget + _SLACK * abs(budget) + 1e-15


def output_failures(
    precision: str, outputs: Mapping[str, Mapping[str, Any]], own: ClassLimits
) -> list[str]:
    """Return what exceeds the numeric limits, in words.

    Args:
        precision: The variant's precision, for the words.
        outputs: Comparison of each output; see :func:`judge`.
        own: The limits of its class.
    """
    found = []
    for name, facts in outputs.items():
        where = f"output {name!r}"
        if facts.get("problem"):
            found.append(f"{where} {facts['problem']}")
        elif facts.get("exact"):
            k, n = facts["mismatched_rows"], facts["rows"]
            if not _within(k / n, own.max_drop):
                found.append(f"{where} differs in {k} of {n} rows")
        elif facts["nonfinite_mismatched"]:
            count = facts["nonfinite_mismatched"]
            found.append(f"{where} has {count} NaN or infinite values where the source has not")
        else:
            if not facts["rel_l2"] <= own.rel_l2:
                found.append(
                    f"{where}: relative L2 error {facts['rel_l2']:.2g} exceeds "
                    f"{own.rel_l2:g} for {precision}"
                )
            if not facts["cosine"] >= own.cosine:
                found.append(
                    f"{where}: cosine {facts['cosine']:.6g} is below {own.cosine:g} for {precision}"
                )
    return found


def _metric_failures(metric: MetricFacts | None, budget: float | None) -> list[str]:
    if metric is None or budget is None or _within(metric.drop, budget):
        return []
    return [
        f"{metric.name} drops by {metric.drop:.4g} (from {metric.source:.4g} to "
        f"{metric.variant:.4g}), more than the budget of {budget:g}"
    ]


def _doubts(samples: SampleFacts, limits: Limits) -> list[str]:
    found = []
    if samples.origin == "random":
        found.append("the inputs are random noise, not data")
    if samples.constant:
        found.append("all samples are the same")
    elif samples.distinct < limits.min_samples:
        same = "" if samples.distinct == samples.n else f" distinct ones among {samples.n}"
        found.append(
            f"only {samples.distinct}{same or ' held-out samples'}; "
            f"a verdict needs {limits.min_samples}"
        )
    if samples.coverage is not None and samples.coverage < limits.min_coverage:
        found.append(
            f"the samples reach {percent(samples.coverage)} of the calibrated ranges, "
            f"less than {percent(limits.min_coverage)}"
        )
    return found


def _bound(metric: MetricFacts, budget: float | None, limits: Limits) -> Bound | None:
    n = len(metric.losses)
    if n == 0 or (budget is None and not metric.share):
        return None
    if metric.share:
        k = sum(loss > 0 for loss in metric.losses)
        event = "changed" if metric.changed == k else "got worse"
    else:
        k = sum(not _within(loss, budget or 0.0) for loss in metric.losses)
        event = f"beyond {budget:g}"
    upper = binomial_upper(k, n, limits.confidence)
    return Bound(k, n, limits.confidence, upper, describe_bound(k, n, limits.confidence, event))


def _proves(
    metric: MetricFacts | None, budget: float | None, bound: Bound | None, limits: Limits
) -> bool:
    if metric is None or budget is None or bound is None:
        return False
    return _within(bound.upper, budget if metric.share else limits.tail_share)


def _praise(
    metric: MetricFacts | None,
    budget: float | None,
    bound: Bound | None,
    limits: Limits,
    *,
    proved: bool,
) -> str:
    held = "within the numeric limits"
    if metric is None:
        return held
    if metric.drop > 0:
        held += f"; {metric.name} drops by {metric.drop:.3g}"
        held += "" if budget is None else f" of a budget of {budget:g}"
    elif metric.drop < 0:
        held += f"; {metric.name} gains {-metric.drop:.3g}"
    else:
        held += f"; {metric.name} does not drop"
    if bound is None:
        return held
    if proved:
        return f"{held}; proved: {bound.claim}"
    goal = (budget if metric.share else limits.tail_share) or 0.0
    if not 0 < goal < 1:
        return f"{held}; not proved: {bound.claim}"
    need = samples_needed(goal, limits.confidence)
    return (
        f"{held}; not proved: {bound.claim}, and a proof needs under {percent(goal)} "
        f"(as {need} samples without a loss give)"
    )


__all__ = [
    "Bound",
    "ClassLimits",
    "Limits",
    "MetricFacts",
    "SampleFacts",
    "Verdict",
    "budget_of",
    "judge",
    "output_failures",
    "precision_class",
]
