"""What calls look like: how many rows they have, as live handles measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_core.store import Metric, Store
    from lepton_core.types import Signature

POINTS = 3
MOST_ROWS = 4096
LIVE_ROWS = 2000
BULK_ROWS = 64


@dataclass(frozen=True, slots=True)
class Load:
    """Calls of about so many rows, and their share of the time that all calls take."""

    rows: int
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"rows": self.rows, "share": self.share}


def live_rows(store: Store, name: str, alias: str, after: int = 0) -> tuple[Metric, ...]:
    """Return the last measurements that handles of an alias wrote."""
    found = store.metrics.read(name, after=after, limit=LIVE_ROWS)
    return tuple(m for m in found if m.data.get("alias") == alias)


def workload(
    store: Store, name: str, alias: str, objective: str, given: Sequence[int]
) -> tuple[tuple[Load, ...], str]:
    """Return what to measure, by rising rows, and where that is known from.

    Args:
        store: The store, with the measurements of live handles.
        name: Name of the deployment.
        alias: Its alias.
        objective: Decides the default: single rows, or 64 for throughput.
        given: Numbers of rows that the user asked for; they count alike.
    """
    if given:
        rows = sorted(set(given))
        return tuple(Load(n, 1 / len(rows)) for n in rows), "given"
    counted: dict[int, float] = {}
    for metric in live_rows(store, name, alias):
        for bucket, (calls, mean) in metric.data.get("rows", {}).items():
            rows_here = min(2 ** int(bucket), MOST_ROWS)
            counted[rows_here] = counted.get(rows_here, 0.0) + calls * mean
    if not counted:
        return (Load(BULK_ROWS if objective == "throughput" else 1, 1.0),), "default"
    # By the time they take: a rare large call may matter more than many small ones.
    first = sorted(counted, key=lambda n: -counted[n])[:POINTS]
    total = sum(counted[n] for n in first)
    return tuple(Load(n, counted[n] / total) for n in sorted(first)), "live calls"


def fitted(loads: Sequence[Load], signature: Signature | None) -> tuple[Load, ...]:
    """Return the loads that a signature allows: a fixed batch takes its own size alone."""
    fixed = {s.shape[0] for s in signature.inputs if s.shape} if signature else set()
    size = next((dim for dim in fixed if isinstance(dim, int)), None)
    return tuple(loads) if size is None else (Load(size, 1.0),)


__all__ = ["LIVE_ROWS", "Load", "fitted", "live_rows", "workload"]
