"""What the record says about a search, and what is said where it finds nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._search_space import FLOAT
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from lepton_compress._search import Search
    from lepton_compress._search_measure import Point
    from lepton_compress._search_verify import Checked


def facts_of_search(made: Search[Any], kept: Checked | None) -> dict[str, Any]:
    """Return what was asked for, measured and verified, JSON types."""
    finder = made.finder
    chosen = None if kept is None else kept.point
    limited = "" if chosen is None else made.limiting(chosen)
    meters = (made.meter, made.few, made.held_out)
    return {
        "search": {
            "budget": made.budget,
            "max_size": finder.max_size,
            "metric": made.meter.metric.metric.name,
            "chosen": None if chosen is None else chosen.to_dict(),
            "proved": kept is not None and kept.proved,
            "bound": None if kept is None else _finite(kept.bound),
            "limited_by": limited,
            "pareto": [p.to_dict() for p in finder.pareto()],
            "verified": [
                {"size": c.point.size, "drop": _finite(c.point.drop), "bound": _finite(c.bound),
                 "holds": c.holds, "why": c.why}
                for c in made.checked
            ],
            "measured": sum({id(m): m.measured for m in meters}.values()),
            "from_cache": made.cache.hits,
            "rows": {
                "calibration": len(made.space.calibration),
                "search": len(made.meter.samples),
                "held_out": len(made.held_out.samples),
            },
        },
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def unmet(made: Search[Any]) -> OptimizeError:
    """Say what stood in the way on search rows: the size, or the budget."""
    finder = made.finder
    compressed = [p for p in finder.points.values() if any(v != FLOAT for v in p.chosen.values())]
    if not any(p.size < made.plain.size for p in compressed):
        return _no_gain(made)
    if finder.max_size is not None:
        unlimited = replace(finder, max_size=None)
        within = [p for p in compressed if unlimited.accepts(p)]
        smallest = min(within or compressed, key=lambda p: p.size)
        how = "within the budget " if within and finder.budget is not None else ""
        limit = made.limiting(smallest) if within and finder.budget is not None else ""
        fixed = max(0.0, smallest.size - made.space.stored(smallest.chosen))
        return OptimizeError(
            "LPT-OPT-031",
            f"No {made.space.what} is as small as {finder.max_size:.0f} bytes",
            cause=f"the smallest {how}has {smallest.size} bytes; about {fixed:.0f} of them are no "
            "weights that can be compressed" + (f"; {limit!r} costs most" if limit else ""),
            remedy="Allow a larger --max-size or a larger --max-drop, or prune the model.",
            details={"closest": smallest.to_dict(), "limited_by": limit or None,
                     "max_size": finder.max_size},
        )  # fmt: skip
    return _over_budget(made, [p for p in compressed if p.size < made.plain.size], "")


def not_borne_out(made: Search[Any]) -> OptimizeError:
    """Say that held-out rows do not bear out even the safest choice."""
    failed = made.checked[-1]
    return _over_budget(made, [failed.point], f"; held-out rows do not bear it out: {failed.why}")


def _over_budget(made: Search[Any], among: list[Point], why: str) -> OptimizeError:
    closest = min(among, key=lambda p: (max(p.drop, 0.0), p.error, p.size))
    limit = made.limiting(closest)
    front = facts_of_search(made, None)["search"]["pareto"]
    return OptimizeError(
        "LPT-OPT-030",
        f"No {made.space.what} meets the budget of {made.budget}",
        cause=f"the closest loses {closest.drop:.3g} on {closest.rows} rows with a relative error "
        f"of {closest.error:.3g} and {closest.size} bytes{why}"
        + (f"; {limit!r} costs most" if limit else ""),
        remedy="Loosen --max-drop, give more samples, or ask for fp16.",
        details={"closest": closest.to_dict(), "limited_by": limit or None,
                 "max_drop": made.budget, "pareto": front},
    )  # fmt: skip


def _no_gain(made: Search[Any]) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-034",
        f"No {made.space.what} makes the model smaller",
        cause=f"the float model has {made.plain.size} bytes, and what describes smaller weights "
        "takes what they save",
        remedy="Keep the float model; compression pays from some ten thousand weights on.",
    )


__all__ = ["facts_of_search", "not_borne_out", "unmet"]
