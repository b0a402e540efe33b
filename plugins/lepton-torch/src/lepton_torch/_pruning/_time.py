"""Budgets of time: how a measured time compares with one, and what is said when it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.errors import AdaptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_torch._pruning._options import Settings


@dataclass(frozen=True)
class Load:
    """A time over its budget; below 1 it fits.

    Attributes:
        low: Lower end of the 95 % interval.
        middle: The median.
        high: Upper end.
    """

    low: float
    middle: float
    high: float


def load_of(entry: Mapping[str, Any], settings: Settings) -> Load:
    """Compare a measured time with the budget.

    Args:
        entry: What :func:`._measure.compare_latency` says of one kind of request.
        settings: The budget: a share of the original's time, or milliseconds.
    """
    low, high = entry["interval"]
    middle = entry["speedup"]
    if settings.milliseconds is not None:
        load = entry["after_ms"] / settings.milliseconds
    else:
        load = 1.0 / middle / (settings.share or 1.0)
    return Load(load * middle / high, load, load * middle / low)


def wanted_time(settings: Settings) -> str:
    """Return the budget as text."""
    if settings.milliseconds is not None:
        return f"{settings.milliseconds:g} ms"
    return f"{settings.share:.0%} of the time"


def missed(settings: Settings, load: Load, reasons: Sequence[str]) -> AdaptError:
    """Return the error for a time that is above its budget for certain.

    Args:
        settings: The budget.
        load: The closest that was reached.
        reasons: What kept it from getting lower.
    """
    return AdaptError(
        "LPT-ADAPT-020",
        f"Pruning cannot reach {wanted_time(settings)}; the closest needs {load.middle:.2f} times "
        "that",
        cause="; ".join(reasons),
        remedy="Ask for a longer time, or for a smaller --prune-multiple.",
        details={"closest": load.middle, "interval": [load.low, load.high]},
    )


def unclear(settings: Settings, load: Load) -> str:
    """Return the warning for a time whose interval holds the budget."""
    return (
        f"Whether {wanted_time(settings)} holds is not certain: measured {load.middle:.2f} times "
        f"that ({load.low:.2f} to {load.high:.2f} at 95 %)."
    )


__all__ = ["Load", "load_of", "missed", "unclear", "wanted_time"]
