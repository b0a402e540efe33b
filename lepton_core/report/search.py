"""The page of a search: sizes against errors, what each weight costs, and what it got.

It is made of the facts of an :class:`~lepton_core.types.OptimizeResult`: ``sensitivity``, and
``search`` if something was chosen.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from lepton_core.report import _svg as svg
from lepton_core.report import _template
from lepton_core.report._format import number, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

SHADES = 5
_LOWEST = 1e-6
"""Relative errors below this are drawn as this."""


def render_search(
    facts: Mapping[str, Any], *, model: str, why: str, places: Mapping[str, str] | None = None
) -> str:
    """Return sensitivities, and a search if there was one, as an HTML page.

    Args:
        facts: Facts of the result: ``sensitivity``, and maybe ``search``.
        model: What to call the model.
        why: The result in a sentence.
        places: The user's source line by node name, where it is known.
    """
    sensitivity, found = facts["sensitivity"], facts.get("search")
    return _template("search.html.j2").render(
        model=model, why=why, found=found, sensitivity=sensitivity, places=places or {},
        gain=facts.get("gain"),
        pareto=pareto(found) if found else None, map=precision_map(sensitivity, found),
        rows=rows_of(sensitivity, found),
    )  # fmt: skip


def rows_of(
    sensitivity: Mapping[str, Any], found: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return one row per unit: what each precision costs alone and gives back, what it got."""
    chosen = (found or {}).get("chosen") or {}
    rows = []
    for unit in sensitivity["units"]:
        own = [one for one in sensitivity["table"] if one["unit"] == unit["name"]]
        rows.append({**unit, "costs": own, "got": chosen.get("chosen", {}).get(unit["name"])})
    return sorted(rows, key=lambda row: -max((_error(c) for c in row["costs"]), default=0.0))


def _error(cost: Mapping[str, Any]) -> float:
    error = cost["only"]["error"]
    return math.inf if error is None else float(error)


def pareto(found: Mapping[str, Any]) -> Markup | None:
    """Draw size against error for the choices that no other beats; mark the one taken."""
    points = [p for p in found["pareto"] if p["error"] is not None]
    if len(points) < 2:
        return None
    left, top, width, height = 64.0, 16.0, 430.0, 230.0
    sizes = [p["size"] for p in points]
    logs = [math.log10(max(p["error"], _LOWEST)) for p in points]
    low, high = math.floor(min(logs)), math.ceil(max(logs) + 1e-9)
    high = max(high, low + 1)
    least, most = 0.0, max(sizes) * 1.04

    def at(bytes_: float, log: float) -> tuple[float, float]:
        x = left + width * (bytes_ - least) / (most - least)
        return x, top + height * (high - log) / (high - low)

    body = []
    for log in range(low, high + 1):
        y = at(0, log)[1]
        body += [svg.line(left, y, left + width, y, "grid"),
                 svg.text(left - 8, y + 4, f"1e{log}", "tick", "end")]  # fmt: skip
    for share in (0.25, 0.5, 0.75, 1.0):
        x = at(most * share, low)[0]
        body.append(svg.text(x, top + height + 18, size(most * share), "tick", "middle"))
    limit = found.get("max_size")
    if limit and limit < most:
        body.append(svg.line(at(limit, low)[0], top, at(limit, low)[0], top + height, "limit"))
    taken = (found.get("chosen") or {}).get("chosen")
    steps = [at(p["size"], log) for p, log in zip(points, logs, strict=True)]
    body += [svg.line(*one, *two, "base") for one, two in itertools.pairwise(steps)]
    for point, place in zip(points, steps, strict=True):
        tip = f"{size(point['size'])}, relative error {number(point['error'])}"
        kind = "disc pass" if point["chosen"] == taken else "fill s0"
        body.append(svg.circle(*place, 7 if point["chosen"] == taken else 4, kind, tip))
    body.append(svg.text(left + width / 2, top + height + 38, "size", "axis", "middle"))
    return svg.picture(
        left + width + 16, top + height + 46, "Size against error",
        f"{len(points)} choices that no other beats in both, from {size(max(sizes))} to "
        f"{size(min(sizes))}; the one taken is marked.", body,
    )  # fmt: skip


def precision_map(sensitivity: Mapping[str, Any], found: Mapping[str, Any] | None) -> Markup:
    """Draw a cell for each weight and precision, darker for more error; frame what was taken."""
    units = sensitivity["units"]
    names = list(dict.fromkeys(name for unit in units for name in unit["choices"]))
    taken = ((found or {}).get("chosen") or {}).get("chosen") or {}
    errors = {(one["unit"], one["precision"]): _error(one) for one in sensitivity["table"]}
    finite = [e for e in errors.values() if math.isfinite(e)] or [1.0]
    low = math.log10(max(min(finite), _LOWEST))
    span = max(math.log10(max(*finite, _LOWEST)) - low, 1e-9)
    left, top, wide, tall = 300.0, 26.0, 88.0, 20.0
    body = [
        svg.text(left + (i + 0.5) * wide, 16, name, "tick", "middle")
        for i, name in enumerate(names)
    ]
    for row, unit in enumerate(units):
        y = top + row * (tall + 3)
        body.append(svg.text(left - 10, y + 14, _short(unit["name"]), "tick", "end"))
        for column, name in enumerate(names):
            if name not in unit["choices"]:
                continue
            x = left + column * wide
            error = 0.0 if name == "fp32" else errors.get((unit["name"], name), math.inf)
            body.append(svg.rect(x + 2, y, wide - 4, tall, _shade(error, low, span)))
            if taken.get(unit["name"]) == name:
                body.append(svg.rect(x + 1, y - 1, wide - 2, tall + 2, "origin"))
    counts = ", ".join(f"{sum(v == n for v in taken.values())} {n}" for n in names if taken)
    return svg.picture(
        left + wide * len(names) + 4, top + len(units) * (tall + 3) + 4, "Precision of each weight",
        f"{len(units)} weights by {len(names)} precisions, darker where quantizing it alone makes "
        "more error at the output." + (f" Taken: {counts}." if counts else ""), body,
    )  # fmt: skip


def _shade(error: float, low: float, span: float) -> str:
    if error <= 0:
        return "frame"
    if not math.isfinite(error):
        return "bad"
    share = (math.log10(max(error, _LOWEST)) - low) / span
    return f"d{1 + min(SHADES - 1, max(0, int(share * SHADES)))}"


def _short(name: str, most: int = 42) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def bars(values: Sequence[float], width: int = 20) -> list[str]:
    """Return values as bars of block characters on a logarithmic scale, for terminals."""
    finite = [math.log10(max(v, _LOWEST)) for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite) - 0.3, max(finite)
    span = max(high - low, 1e-9)
    texts = []
    for value in values:
        log = high if not math.isfinite(value) else math.log10(max(value, _LOWEST))
        texts.append("█" * max(1, round(width * (log - low) / span)))
    return texts


__all__ = ["bars", "pareto", "precision_map", "render_search", "rows_of"]
