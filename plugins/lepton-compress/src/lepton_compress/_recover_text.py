"""What recoveries gave back, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_FALL = 0.05
"""Share by which the error of the outputs has to fall to be worth a word where the metric stays."""


def lines(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for people what was kept and what it gave back; what gave back nothing is left out.

    Args:
        steps: All that was tried, as the record keeps it.
    """
    return [line for line in (_line(step) for step in steps if step["kept"]) if line]


def _line(step: Mapping[str, Any]) -> str:
    before, after = step["error_before"], step["error_after"]
    errors = f"error of the outputs {before} -> {after}"
    if step.get("for") == "time":
        times = f"{step['p50_ms_before']:.3g} -> {step['p50_ms_after']:.3g}"
        return f"{step['method']}: {times} ms a request, {errors}"
    drops = step["drop_before"], step["drop_after"]
    gained = 0.0 if None in drops else drops[0] - drops[1]
    if abs(gained) >= 1e-9:
        return f"{step['method']} gave back {gained:+.4g} of the metric, {errors}"
    unknown = before is None or after is None
    if not unknown and after > before * (1 - LEAST_FALL):
        return ""
    return f"{step['method']} gave back: {errors}"


__all__ = ["LEAST_FALL", "lines"]
