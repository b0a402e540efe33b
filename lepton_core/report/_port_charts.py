"""Charts of a whole port: its variants against the source, and sample by sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_core._passport_schema import decode_number
from lepton_core.report import _svg as svg
from lepton_core.report._format import milliseconds, number, size
from lepton_core.report.charts import STEPS, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup

_COLUMNS = 120


def bubbles(passports: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Size against latency of every variant and of the source; a larger disc errs more."""
    points = [_point(i, p) for i, p in enumerate(passports, 1)]
    shown = [p for p in points if p]
    if not shown:
        return None
    origin = next((o for p in passports if (o := _origin(p))), None)
    xs = [p["size"] for p in shown] + ([origin[0]] if origin else [])
    ys = [p["latency"] for p in shown] + ([origin[1]] if origin else [])
    left, top, width, height = 66.0, 16.0, 430.0, 300.0
    x, x_ticks = log_scale(xs, left, width)
    y, y_ticks = log_scale(ys, top + height, -height)
    body = [svg.rect(left, top, width, height, "frame")]
    for value in x_ticks:
        body.append(svg.line(x(value), top, x(value), top + height, "grid"))
        body.append(svg.text(x(value), top + height + 18, size(round(value)), "tick", "middle"))
    for value in y_ticks:
        body.append(svg.line(left, y(value), left + width, y(value), "grid"))
        body.append(svg.text(left - 7, y(value) + 4, milliseconds(value), "tick", "end"))
    body.append(svg.text(left + width / 2, top + height + 38, "size", "axis", "middle"))
    body.append(
        f'<g transform="rotate(-90 14 {top + height / 2:.0f})">'
        f"{svg.text(14, top + height / 2, 'latency, median', 'axis', 'middle')}</g>"
    )
    if origin:
        at = x(origin[0]), y(origin[1])
        body += [svg.line(*at, x(p["size"]), y(p["latency"]), "ray") for p in shown]
        body.append(svg.circle(*at, 9, "origin", "source"))
        side = "end" if at[0] > left + width / 2 else "start"
        gap = -14 if side == "end" else 14
        body.append(svg.text(at[0] + gap, at[1] + 4, "source", "label", side))
    for p in sorted(shown, key=lambda p: -p["radius"]):
        at = x(p["size"]), y(p["latency"])
        body.append(svg.circle(*at, p["radius"], f"disc {p['verdict']}", p["tip"]))
    frame = (left, top, left + width, top + height)
    body += _tags([(x(p["size"]), y(p["latency"]), p) for p in shown], frame)
    return svg.picture(
        left + width + 8, top + height + 46, "Size and latency of every variant",
        "Lower left is smaller and faster. Discs are larger where the relative L2 error is. "
        + " ".join(p["tip"] + "." for p in shown), body,
    )  # fmt: skip


def _point(index: int, passport: Mapping[str, Any]) -> dict[str, Any] | None:
    latency = passport["latency"]["variant"]
    bytes_ = passport["variant"]["size_bytes"]
    if not latency or not bytes_ or not latency["p50_ms"]:
        return None
    error = _error(passport)
    decades = 12 + max(-12.0, min(0.0, math.log10(error))) if error > 0 else 0.0
    variant = passport["variant"]
    return {
        "index": index,
        "size": float(bytes_),
        "latency": float(latency["p50_ms"]),
        "radius": 6 + 1.7 * decades,
        "verdict": passport["verdict"]["verdict"],
        "tip": f"{index}: {variant['target']} {variant['precision']}, {size(bytes_)}, "
        f"{milliseconds(latency['p50_ms'])}, relative L2 error {number(error)}",
    }


def _error(passport: Mapping[str, Any]) -> float:
    errors = [decode_number(o["rel_l2"]) for o in passport["outputs"].values() if "rel_l2" in o]
    return max(errors, default=0.0)


def _origin(passport: Mapping[str, Any]) -> tuple[float, float] | None:
    latency, bytes_ = passport["latency"]["source"], passport["source"]["size_bytes"]
    if not latency or not bytes_ or not latency["p50_ms"]:
        return None
    return float(bytes_), float(latency["p50_ms"])


def log_scale(
    values: Sequence[float], start: float, length: float
) -> tuple[Callable[[float], float], list[float]]:
    """Return a map from values to places, and round values for ticks."""
    low, high = math.log10(min(values)), math.log10(max(values))
    pad = max(0.12, 0.14 * (high - low))
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return start + length * (math.log10(value) - low) / (high - low)

    steps: tuple[float, ...] = (1, 2, 5) if high - low < 2.2 else (1,)
    if high - low < 0.5:
        steps = (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
    return place, [t for t in ticks if low <= math.log10(t) <= high]


def _tags(
    points: Sequence[tuple[float, float, Mapping[str, Any]]],
    frame: tuple[float, float, float, float],
) -> list[str]:
    """Number every disc; tags push each other away, and a thin line leads to their disc."""
    places = [[x + p["radius"] * 0.7 + 10, y - p["radius"] * 0.7 - 10] for x, y, p in points]
    for _ in range(80):
        for i, a in enumerate(places):
            for j, b in enumerate(places[:i]):
                dx, dy = a[0] - b[0], a[1] - b[1]
                far = math.hypot(dx, dy)
                if far >= 21:
                    continue
                # Equal places have no direction; turn by an angle that depends on the pair.
                ux, uy = (dx / far, dy / far) if far else (math.cos(i + 2 * j), math.sin(i + 2 * j))
                for tag, sign in ((a, 1), (b, -1)):
                    tag[0] += sign * ux * (21 - far) / 2
                    tag[1] += sign * uy * (21 - far) / 2
        for tag in places:
            tag[0] = min(max(tag[0], frame[0] + 11), frame[2] - 11)
            tag[1] = min(max(tag[1], frame[1] + 11), frame[3] - 11)
    body = []
    for (x, y, p), (tx, ty) in zip(points, places, strict=True):
        body.append(svg.line(x, y, tx, ty, "leader"))
        body.append(svg.circle(tx, ty, 9.5, f"tag {p['verdict']}"))
        body.append(svg.text(tx, ty + 4, str(p["index"]), "tagtext", "middle"))
    return body


def sample_rows(passports: Sequence[Mapping[str, Any]]) -> Markup | None:
    """One row per variant, the same samples in the same columns: what breaks, breaks in sight."""
    rows = [(i, p) for i, p in enumerate(passports, 1) if p["picture"]]
    if not rows:
        return None
    left, width, tall = 30.0, 480.0, max(20.0, min(52.0, 330.0 / len(rows) - 6))
    columns = min(_COLUMNS, max(len(p["picture"]["errors"]) for _, p in rows))
    pitch = width / columns
    body: list[str] = []
    for row, (index, passport) in enumerate(rows):
        top = row * (tall + 6)
        steps: dict[str, list[tuple[float, float, float, float]]] = {}
        for column, kind in enumerate(_squeeze(passport, columns)):
            box = (left + column * pitch, top, pitch - 0.5, tall)
            steps.setdefault(kind, []).append(box)
        body += [svg.bars(boxes, kind) for kind, boxes in sorted(steps.items())]
        body.append(svg.circle(11, top + tall / 2, 9.5, f"tag {passport['verdict']['verdict']}"))
        body.append(svg.text(11, top + tall / 2 + 4, str(index), "tagtext", "middle"))
    names = "; ".join(f"{i}: {p['variant']['target']} {p['variant']['precision']}" for i, p in rows)
    return svg.picture(
        left + width, len(rows) * (tall + 6) - 6, "Errors sample by sample",
        f"A row for each variant ({names}); each column stands for the same held-out samples and "
        "shows the worst of them.", body,
    )  # fmt: skip


def _squeeze(passport: Mapping[str, Any], columns: int) -> list[str]:
    """Return the colour class of each column: changed, or the step of its worst error."""
    picture = passport["picture"]
    limit = passport["limits"]["applied"]["rel_l2"]
    errors = [decode_number(e) for e in picture["errors"]]
    columns = min(columns, len(errors))
    changed = {cell * columns // len(errors) for cell in picture["changed_cells"] or ()}
    worst = [0] * columns
    for i, error in enumerate(errors):
        column = i * columns // len(errors)
        worst[column] = max(worst[column], min(step_of(error, limit), len(STEPS)))
    return ["changed" if i in changed else f"e{step}" for i, step in enumerate(worst)]


__all__ = ["bubbles", "log_scale", "sample_rows"]
