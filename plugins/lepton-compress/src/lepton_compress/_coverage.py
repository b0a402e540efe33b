"""How much of the calibrated ranges other samples reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_compress._calibrate import observe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_compress._calibrate import Range
    from lepton_compress._graph import Graph
    from lepton_core.context import Context
    from lepton_core.samples import Samples


def coverage(
    graph: Graph,
    calibrated: Mapping[str, Range],
    samples: Samples,
    context: Context,
    threads: int | None = None,
) -> float:
    """Return the mean share of the calibrated ranges that *samples* reach, 0 to 1.

    A value that never changed in calibration counts 0: nothing is known about its range.

    Args:
        graph: The pivot.
        calibrated: What calibration saw.
        samples: Other samples, such as the held-out ones.
        context: As for :func:`~lepton_compress._calibrate.observe`.
        threads: Threads of the session.
    """
    if not calibrated:
        return 0.0
    seen = observe(graph, list(calibrated), samples, context, threads=threads)
    shares = [reached(calibrated[name], found) for name, found in seen.items()]
    return sum(shares) / len(shares)


def reached(calibrated: Range, seen: Range) -> float:
    """Return the share of one calibrated range that was seen again."""
    width = calibrated.chosen_high - calibrated.chosen_low
    if width <= 0:
        return 0.0
    low = max(seen.low, calibrated.chosen_low)
    high = min(seen.high, calibrated.chosen_high)
    return max(0.0, high - low) / width


__all__ = ["coverage", "reached"]
