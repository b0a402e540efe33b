"""The page of a deployment: what ran when, how fast, and every change with its effect."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lepton_core.report import _template
from lepton_core.report._timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.store import AliasState, LedgerRow, Metric, Store, Version

WINDOWS = 400
_READ = 20 * WINDOWS
EVENTS = 60


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a deployment.

    Attributes:
        time: Seconds since the epoch.
        kind: ``deploy``, ``move``, ``adjust``, ``migrate`` or ``alarm``.
        mood: ``pass``, ``weak`` or ``fail``, for its colour.
        title: What, in a few words.
        text: Why, or with what effect.
        number: Its number in the chart; 0 for one that is only listed.
        seq: Row of the ledger.
    """

    time: float
    kind: str
    mood: str
    title: str
    text: str
    number: int
    seq: int


@dataclass(frozen=True, slots=True)
class Window:
    """What one version did in a stretch of time, as a live handle measured it.

    Attributes:
        begin: Seconds since the epoch, and
        end: the end of the stretch.
        version: Version that ran.
        calls: Calls that succeeded, and
        errors: that failed.
        p50_ms: Median time of a call, in milliseconds; ``None`` without calls.
        p95_ms: 95th percentile.
        buckets: Calls by bucket of the histogram of their times, which windows can be added up by.
    """

    begin: float
    end: float
    version: str
    calls: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    buckets: Mapping[int, int] = field(default_factory=dict)


def render_deployment(store: Store, reference: str) -> str:
    """Return the page of a deployment as HTML.

    Args:
        store: Where it is.
        reference: ``NAME@ALIAS``, or ``NAME`` for its alias ``production``.

    Raises:
        UsageError: LPT-STORE-006 … 009, there is no such name or alias.
        StorageError: The store is damaged.
    """
    found = store.resolve(reference)
    versions = {v.id: v for v in store.versions(found.name)}
    alias = found.alias.alias if found.alias else ""
    read = store.metrics.read(found.name, limit=_READ)
    windows = [window for metric in read if (window := _window(metric, alias))][-WINDOWS:]
    events = events_of(store.ledger(name=found.name), versions, alias)[-EVENTS:]
    order = list(dict.fromkeys(w.version for w in windows))
    return _template("deployment.html.j2").render(
        name=found.name,
        alias=alias,
        state=found.alias,
        present=found.version,
        versions=[_row(versions[v], windows) for v in order if v in versions],
        calls=sum(w.calls for w in windows),
        failed=sum(w.errors for w in windows),
        events=events,
        chart=timeline(windows, events, order),
        routes=_routes(store, found.name, found.alias, versions),
    )


def _window(metric: Metric, alias: str) -> Window | None:
    data = metric.data
    if data.get("alias") != (alias or None):
        return None
    end = _seconds(metric.time)
    seconds = float(data.get("seconds", 0.0))
    return Window(
        end - seconds, end, data["version"], data["calls"], data["errors"],
        data["p50_ms"], data["p95_ms"],
        {int(bucket): count for bucket, count in data.get("buckets", {}).items()},
    )  # fmt: skip


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _name(versions: Mapping[str, Version], version: str | None) -> str:
    known = versions.get(version or "")
    if known is None:
        return version or "nothing"
    return f"{known.target} {known.precision}".strip()


def _row(version: Version, windows: Sequence[Window]) -> dict[str, Any]:
    own = [w for w in windows if w.version == version.id]
    return {
        "id": version.id,
        "target": version.target,
        "precision": version.precision,
        "size": version.size_bytes,
        "calls": sum(w.calls for w in own),
        "failed": sum(w.errors for w in own),
        "p50_ms": _median(own),
    }


def _median(windows: Sequence[Window]) -> float | None:
    """Return the median of all calls of some windows, which no mean of their medians is."""
    from lepton_core.deployment._telemetry import VersionStats

    buckets: Counter[int] = Counter()
    for window in windows:
        buckets.update(window.buckets)
    return VersionStats("", buckets=buckets).quantile_ms(0.5) if buckets else None


def _routes(
    store: Store, name: str, state: AliasState | None, versions: Mapping[str, Version]
) -> list[dict[str, Any]]:
    """Return who runs calls of how many rows, if a dispatch table counts."""
    from lepton_core.adjusting import explain

    if state is None:
        return []
    told = explain(store, f"{name}@{state.alias}")
    return [{**r, "name": _name(versions, r["version"])} for r in told["routes"]]


# --- events -------------------------------------------------------------------------------------


def events_of(
    rows: Sequence[LedgerRow], versions: Mapping[str, Version], alias: str
) -> list[Event]:
    """Return what the ledger tells about an alias, oldest first, in words."""
    found: list[Event] = []
    shown_before = 0
    for row in rows:
        told = _event(row, versions, alias)
        if told is None:
            continue
        kind, mood, title, text, shown = told
        shown_before += shown
        number = shown_before if shown else 0
        found.append(Event(_seconds(row.time), kind, mood, title, text, number, row.seq))
    return found


def _event(
    row: LedgerRow, versions: Mapping[str, Version], alias: str
) -> tuple[str, str, str, str, bool] | None:
    details = row.details
    if row.kind == "version.add":
        return "deploy", "weak", f"stored {_name(versions, details['version'])}", row.why, False
    if row.kind == "alias.set" and details["alias"] == alias:
        back = details["action"] == "rollback"
        title = f"{'back to' if back else 'now'} {_name(versions, details['version'])}"
        return "move", "weak" if back else "pass", title, row.why, True
    if row.kind == "deployment.alarm" and details.get("alias") in (alias, None):
        return "alarm", "fail", f"alarm: {details.get('kind', '')}", row.why, True
    if row.kind == "setting.set":
        return _of_setting(row, alias)
    return None


def _of_setting(row: LedgerRow, alias: str) -> tuple[str, str, str, str, bool] | None:
    key, value = row.details["key"], row.details["value"] or {}
    record = value.get("record") or {}
    if key == f"dispatch.{alias}" and record and record["state"] != "trial":
        mood = {"kept": "pass", "undone": "weak"}.get(record["state"], "fail")
        text = record["cause"] if record["state"] == "undone" else (
            f"{record['cause']}: {record['verdict']}"
        )  # fmt: skip
        return "adjust", mood, f"adjustment {record['state']}", text, True
    if key == f"migrate.{alias}" and value.get("step"):
        step, ended = value["step"], value["step"] in ("done", "returned")
        mood = {"done": "pass", "returned": "fail"}.get(step, "weak")
        text = value.get("why") or row.why
        return "migrate", mood, f"migration to {value.get('target')}: {step}", text, ended
    return None


__all__ = ["Event", "Window", "events_of", "render_deployment"]
