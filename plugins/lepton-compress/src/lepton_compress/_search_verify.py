"""Whether held-out rows, which the search never saw, bear a choice out.

Choices are tested from the safest to the smallest, and the last that passes before the first that
does not is taken. Each test alone may be wrong with the probability that the confidence leaves; as
the order does not depend on these rows and the first failure ends it, so may the whole sequence
(fixed-sequence testing; Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test", 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from lepton_core.statistics import binomial_upper, samples_needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_compress._search_measure import Point
    from lepton_core.verdicts import Limits

_SLACK = 1e-9
_FEW = 10
"""Changed rows below which the normal approximation is not used."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One choice on held-out rows.

    Attributes:
        point: What was measured there.
        bound: Upper bound of the loss at the confidence.
        proved: Whether the bound is within the budget.
        holds: Whether the choice may be taken.
        why: What speaks against it; empty if nothing does.
    """

    point: Point
    bound: float
    proved: bool
    holds: bool
    why: str = ""

    def exceeds(self, budget: float | None) -> bool:
        """Tell whether the rows themselves lose more than a budget."""
        return budget is not None and self.point.drop > budget + _SLACK


def bound_of(point: Point, *, share: bool, confidence: float) -> float:
    """Return the one-sided upper bound of a choice's loss.

    For shares of rows: the exact bound of Clopper and Pearson on rows that got worse; where at
    least ten rows changed, that of Agresti and Min (Statistics in Medicine 2005, 24:729-740) on
    the difference of worse and better, if it is lower. For other metrics: the mean and its
    standard error.

    Args:
        point: The measurement.
        share: Whether the metric is a share of rows.
        confidence: Probability that the bound holds.
    """
    z = NormalDist().inv_cdf(confidence)
    if not share:
        return point.drop + z * point.spread / math.sqrt(point.rows)
    exact = binomial_upper(point.worse, point.rows, confidence)
    if point.worse + point.better < _FEW:
        return exact
    n, worse, better = point.rows + 2, point.worse + 0.5, point.better + 0.5
    spread = math.sqrt(max(0.0, worse + better - (worse - better) ** 2 / n)) / n
    return min(exact, (worse - better) / n + z * spread)


def check(
    point: Point, budget: float | None, *, share: bool, limits: Limits, required: bool = True
) -> Checked:
    """Judge a choice by held-out rows.

    It may be taken if the bound of its loss is within the budget. If the rows are so few that not
    even a choice that changes none of them could be proved, they must show no loss at all.

    Args:
        point: The measurement on held-out rows.
        budget: Largest accepted loss; ``None`` where the metric has none, so that the numeric
            limits alone decide, and nothing is proved.
        share: Whether the metric is a share of rows.
        limits: Numeric limits that hold besides, and the confidence.
        required: Whether a choice over the budget may not be taken.
    """
    bound = bound_of(point, share=share, confidence=limits.confidence)
    numeric = beyond_limits(point, limits)
    if numeric:
        return Checked(point, bound, False, False, numeric)
    if budget is None:
        return Checked(point, bound, False, True)
    if bound <= budget + _SLACK:
        return Checked(point, bound, True, True)
    few = share and (
        budget <= 0 or point.rows < samples_needed(min(budget, 0.999), limits.confidence)
    )
    if few and point.drop <= _SLACK:
        return Checked(point, bound, False, True)
    why = f"it loses {point.drop:.3g} on {point.rows} held-out rows, at most {bound:.3g}"
    return Checked(point, bound, False, not required, why)


def beyond_limits(point: Point, limits: Limits) -> str:
    """Say which numeric limit of compressed variants a choice exceeds; nothing if none."""
    own = limits.compressed
    if point.error > own.rel_l2:
        return f"the relative error of {point.error:.3g} is over the limit of {own.rel_l2:g}"
    if point.cosine < own.cosine:
        return f"the cosine of {point.cosine:.3g} is under the limit of {own.cosine:g}"
    return ""


def in_sequence(
    points: Sequence[Point], measure: Callable[[Point], Checked]
) -> tuple[Checked | None, list[Checked]]:
    """Test choices in order until one fails.

    Args:
        points: From the safest to the smallest.
        measure: Measures one on held-out rows, and judges it.

    Returns:
        The last that passes before the first that does not, ``None`` if the first one fails; and
        all that were tested.
    """
    kept: Checked | None = None
    seen = []
    for point in points:
        found = measure(point)
        seen.append(found)
        if not found.holds:
            break
        kept = found
    return kept, seen


__all__ = ["Checked", "beyond_limits", "bound_of", "check", "in_sequence"]
