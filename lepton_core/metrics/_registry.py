"""What metrics there are, as data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from lepton_core.errors import UsageError

LabelUse = Literal["required", "optional", "unused"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: What users write.
        unit: Unit of its values and of a drop (``"share of samples"``).
        higher_is_better: Direction; a drop is positive when the variant is worse either way.
        labels: Whether labels are required, used if they are there, or unused.
        share: Whether a drop is a share of samples, so that an exact bound on it exists.
        summary: One line.
    """

    name: str
    unit: str
    higher_is_better: bool
    labels: LabelUse
    share: bool
    summary: str

    @property
    def needs_labels(self) -> bool:
        """Whether it cannot be measured without labels."""
        return self.labels == "required"


_SHARE = "share of samples"
_OUTPUT = "output unit"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", _SHARE, True, "required", True, "the likeliest class is the label"),
        Metric("top5", _SHARE, True, "required", True, "the label is among the five likeliest"),
        Metric("agreement", _SHARE, True, "unused", True, "the same class as the source"),
        Metric("cosine", "cosine", True, "unused", False, "mean cosine of rows with the source"),
        Metric("rel_l2", "relative L2", False, "unused", False, "L2 error over the source's norm"),
        Metric("max_abs", _OUTPUT, False, "unused", False, "largest absolute error"),
        Metric("mae", _OUTPUT, False, "optional", False, "mean absolute error, to labels if any"),
    )
}
"""All metrics by name."""


def find_metric(text: str) -> tuple[Metric, str | None]:
    """Split ``NAME[:OUTPUT]`` and look the metric up.

    Returns:
        The metric, and the output's name if one was given.

    Raises:
        UsageError: ``LPT-METRIC-001`` there is no such metric.
    """
    name, _, output = text.strip().partition(":")
    if name in METRICS:
        return METRICS[name], output or None
    near = difflib.get_close_matches(name, METRICS, n=1)
    known = ", ".join(METRICS)
    raise UsageError(
        "LPT-METRIC-001",
        f"There is no metric {name!r}",
        cause=f"metrics are {known}",
        remedy=f"Did you mean {near[0]!r}?" if near else "Write --metric NAME or NAME:OUTPUT.",
        details={"metrics": list(METRICS)},
    )


__all__ = ["METRICS", "Metric", "find_metric"]
