"""The chart of a deployment over time: latency, calls, failures, and what was changed when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lepton_core.report import _svg as svg
from lepton_core.report._format import milliseconds
from lepton_core.report._port_charts import log_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

    from lepton_core.report.deployment import Event, Window

SERIES = 6
"""Colours of versions; a seventh starts again."""

_LEFT, _TOP, _WIDTH, _HEIGHT = 66.0, 44.0, 930.0, 260.0
_STRIP = 54.0
_TAG = 21.0


def timeline(
    windows: Sequence[Window], events: Sequence[Event], versions: Sequence[str]
) -> Markup | None:
    """Return the chart; ``None`` if no live handle has measured anything.

    Args:
        windows: Stretches of time, oldest first.
        events: What happened; those with a number are marked.
        versions: Ids in the order of their colours.
    """
    timed = [w for w in windows if w.p50_ms]
    if not timed:
        return None
    begin, end = min(w.begin for w in windows), max(w.end for w in windows)
    x = _time_scale(begin, end)
    values = [v for w in timed for v in (w.p50_ms, w.p95_ms) if v]
    y, ticks = log_scale(values, _TOP + _HEIGHT, -_HEIGHT)
    body = [svg.rect(_LEFT, _TOP, _WIDTH, _HEIGHT, "frame")]
    for value in ticks:
        body.append(svg.line(_LEFT, y(value), _LEFT + _WIDTH, y(value), "grid"))
        body.append(svg.text(_LEFT - 7, y(value) + 4, milliseconds(value), "tick", "end"))
    for window in timed:
        kind = f"s{versions.index(window.version) % SERIES}"
        left, right = x(window.begin), max(x(window.end), x(window.begin) + 1.5)
        if window.p95_ms:
            body.append(svg.line(left, y(window.p95_ms), right, y(window.p95_ms), f"p95 {kind}"))
        body.append(svg.line(left, y(window.p50_ms or 0), right, y(window.p50_ms or 0), kind))
    body += _calls(windows, versions, x)
    body += _marks([e for e in events if e.number and begin <= e.time <= end + 1], x)
    body += _axis(begin, end, x)
    failed = sum(w.errors for w in windows)
    return svg.picture(
        _LEFT + _WIDTH + 14, _TOP + _HEIGHT + _STRIP + 34, "Latency and calls over time",
        f"Median latency (thick) and 95th percentile (thin) of every stretch, by version; below "
        f"them the calls per second. {failed} calls failed. Numbers mark the events below.", body,
    )  # fmt: skip


def _time_scale(begin: float, end: float) -> Callable[[float], float]:
    span = max(end - begin, 1e-9)
    return lambda time: _LEFT + _WIDTH * min(max((time - begin) / span, 0.0), 1.0)


def _calls(
    windows: Sequence[Window], versions: Sequence[str], x: Callable[[float], float]
) -> list[str]:
    """Return bars of calls per second, with failures on top of them."""
    base = _TOP + _HEIGHT + _STRIP
    rates = [(w, (w.calls + w.errors) / max(w.end - w.begin, 1e-9)) for w in windows]
    most = max((rate for _, rate in rates), default=1.0) or 1.0
    body = [svg.text(_LEFT - 7, base, "calls/s", "tick", "end")]
    for window, rate in rates:
        wide = max(x(window.end) - x(window.begin), 1.0)
        tall = (_STRIP - 12) * rate / most
        kind = f"fill s{versions.index(window.version) % SERIES}"
        body.append(svg.rect(x(window.begin), base - tall, wide, tall, kind))
        if window.errors:
            share = window.errors / (window.calls + window.errors)
            body.append(svg.rect(x(window.begin), base - tall, wide, max(2, tall * share), "bad"))
    body.append(svg.text(_LEFT - 7, base - _STRIP + 22, f"{most:.0f}", "tick", "end"))
    return body


def _marks(events: Sequence[Event], x: Callable[[float], float]) -> list[str]:
    """Number every event above the chart; neighbours step aside."""
    body = []
    for event, at in zip(events, _aside([x(event.time) for event in events]), strict=True):
        body.append(svg.line(x(event.time), _TOP, x(event.time), _TOP + _HEIGHT, "event"))
        body.append(svg.line(x(event.time), _TOP, at, _TOP - 14, "leader"))
        body.append(svg.circle(at, _TOP - 22, 9.5, f"tag {event.mood}", event.title))
        body.append(svg.text(at, _TOP - 18, str(event.number), "tagtext", "middle"))
    return body


def _aside(wanted: Sequence[float]) -> list[float]:
    """Move rising places apart, none beyond the right edge of the chart."""
    step = min(_TAG, _WIDTH / max(len(wanted), 1))
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + step) if places else place)
    limit = _LEFT + _WIDTH
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - step
    return places


def _axis(begin: float, end: float, x: Callable[[float], float]) -> list[str]:
    base = _TOP + _HEIGHT + _STRIP + 20
    shown = [begin + (end - begin) * part for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    anchors = ("start", "middle", "middle", "middle", "end")
    form = "%H:%M:%S" if end - begin < 86_400 else "%d %b %H:%M"
    return [
        svg.text(x(t), base, datetime.fromtimestamp(t, UTC).strftime(form), "tick", anchor)
        for t, anchor in zip(shown, anchors, strict=True)
    ]


__all__ = ["SERIES", "timeline"]
