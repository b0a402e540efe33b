"""The last step: does the new version do its work where it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import LeptonError
from lepton_core.migration._build import as_one_row, run_isolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.migration._journal import Record
    from lepton_core.migration._options import Options
    from lepton_core.store import Store, Version
    from lepton_core.types import OpenRequest

LEAST_ERRORS = 3
"""Fewer failed calls than this say nothing about a version."""

LEAST_CALLS = 50
"""Fewer calls than this say nothing about its latency."""

_SLOWER_MS = 1.0
"""A ratio of medians below this difference is a matter of the clock."""


@dataclass(frozen=True)
class Measured:
    """What handles measured of one version.

    Attributes:
        calls: Calls that succeeded.
        errors: Calls that failed for another reason than the caller's inputs.
        p50_ms: Median latency, ``None`` without calls.
    """

    calls: int = 0
    errors: int = 0
    p50_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"calls": self.calls, "errors": self.errors, "p50_ms": self.p50_ms}


def measured(rows: Iterable[Mapping[str, Any]], version: str, alias: str) -> Measured:
    """Add up what handles wrote about a version under an alias."""
    from lepton_core.deployment._telemetry import VersionStats

    calls = errors = 0
    buckets: dict[int, int] = {}
    for row in rows:
        if row.get("version") != version or row.get("alias") not in (alias, None):
            continue
        calls += int(row.get("calls", 0))
        errors += int(row.get("faults", row.get("errors", 0)))
        for bucket, count in dict(row.get("buckets", {})).items():
            buckets[int(bucket)] = buckets.get(int(bucket), 0) + int(count)
    stats = VersionStats(version, calls, errors, buckets=buckets)
    return Measured(calls, errors, stats.quantile_ms(0.5) if buckets else None)


def judge(store: Store, name: str, record: Record, options: Options) -> tuple[str, dict[str, Any]]:
    """Return why the new version must go, ``""`` if nothing speaks against it, and the numbers.

    Counted are alarms of deployment handles about it in the ledger since the switch, and what
    handles measured of it.

    Raises:
        StorageError: The store cannot be read.
    """
    facts: dict[str, Any] = {}
    alarms = [
        row
        for row in store.ledger(name=name, kind="deployment.alarm", after=record.since)
        if row.details.get("version") == record.result
        and row.details.get("alias") in (record.alias, None)
    ]
    facts["alarms"] = [row.seq for row in alarms]
    if alarms:
        first = alarms[0]
        return f"alarm ({first.details.get('kind')}) in ledger row {first.seq}: {first.why}", facts
    rows = [m.data for m in store.metrics.read(name, after=record.measured)]
    now = measured(rows, record.result, record.alias)
    facts["measured"] = now.to_dict()
    total = now.calls + now.errors
    if now.errors >= LEAST_ERRORS and now.errors > options.max_errors * total:
        return f"{now.errors} of {total} calls failed, more than {options.max_errors:.1%}", facts
    earlier = [m.data for m in store.metrics.read(name) if m.id <= record.measured]
    before = measured(earlier, record.source, record.alias)
    facts["before"] = before.to_dict()
    return _too_slow(before, now, options.max_slowdown), facts


def _too_slow(before: Measured, now: Measured, limit: float) -> str:
    if before.p50_ms is None or now.p50_ms is None:
        return ""
    if min(before.calls, now.calls) < LEAST_CALLS or now.p50_ms - before.p50_ms < _SLOWER_MS:
        return ""
    ratio = now.p50_ms / before.p50_ms
    if ratio <= limit:
        return ""
    return (
        f"the median latency went from {before.p50_ms:.3g} to {now.p50_ms:.3g} ms, "
        f"{ratio:.1f} times, more than {limit:g}"
    )


def probe(
    store: Store, hooks: Hooks, version: Version, opening: OpenRequest, context: Context
) -> str:
    """Open a stored version as a handle would, and ask it its golden inputs.

    It runs in the runtime's worker process, so that a crash is an answer.

    Returns:
        Why it does not do its work; ``""`` if it does.
    """
    from lepton_core.deployment._golden import read_golden, rel_l2
    from lepton_core.samples import Samples, random_samples, save

    try:
        with store.view(version) as view:
            golden = view.folder / "golden"
            known = golden.is_dir()
            if known:
                inputs, expected, tolerance = read_golden(golden)
                samples = Samples(as_one_row(inputs))
            elif version.model.signature is not None:
                samples = random_samples(version.model.signature, 1, context.seed)
            else:
                return ""
            folder = context.workdir / "probe"
            folder.mkdir(exist_ok=True)
            place = replace(context, workdir=folder)
            saved = save(samples, folder / "in")
            found = run_isolated(hooks, view.model, opening, saved, place, name="out")
            if not known:
                return ""
            for name, array in expected.items():
                error = rel_l2(array, np.load(found.outputs[name])[0])
                if not error <= tolerance:
                    return (
                        f"output {name!r} is off by a relative L2 of {error:.3g} after the switch"
                    )
    except LeptonError as error:
        return f"it does not run after the switch: {error.code}: {error.message}"
    return ""


__all__ = ["LEAST_CALLS", "LEAST_ERRORS", "Measured", "judge", "measured", "probe"]
