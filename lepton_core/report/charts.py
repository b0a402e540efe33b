"""Charts of one passport, as SVG whose colours come from the page's style sheet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_core._passport_schema import decode_number
from lepton_core.report import _svg as svg
from lepton_core.report._format import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

STEPS = (0.0, 0.01, 0.1, 0.3, 1.0)
"""Upper ends of the colour steps, as shares of the limit; beyond the last is over the limit."""

STEP_NAMES = ("equal", "under 1 % of the limit", "under 10 %", "under 30 %", "within the limit",
              "over the limit")  # fmt: skip


def step_of(error: float, limit: float) -> int:
    """Return the colour step of an error, 0 (equal) to 5 (over the limit)."""
    if not error > 0:
        return 0
    share = error / limit if limit > 0 else math.inf
    return next((i for i, end in enumerate(STEPS) if i and share <= end), len(STEPS))


def sample_grid(passport: Mapping[str, Any]) -> Markup | None:
    """One cell per held-out sample, coloured by its error; changed classes are marked."""
    picture = passport["picture"]
    if not picture:
        return None
    limit = passport["limits"]["applied"]["rel_l2"]
    errors = [decode_number(e) for e in picture["errors"]]
    columns = min(len(errors), max(12, math.ceil(math.sqrt(len(errors) * 2.1))))
    pitch, side = 10.0, 8.6
    steps: dict[int, list[tuple[float, float]]] = {}
    changed = set(picture["changed_cells"] or ())
    marked = []
    for i, error in enumerate(errors):
        at = (i % columns * pitch, i // columns * pitch)
        if i in changed:
            marked.append(at)
        else:
            steps.setdefault(step_of(error, limit), []).append(at)
    rows = math.ceil(len(errors) / columns)
    body = [svg.cells(at, side, f"e{step}") for step, at in sorted(steps.items())]
    body.append(svg.cells(marked, side, "changed"))
    over = len(steps.get(len(STEPS), ()))
    return svg.picture(
        columns * pitch, rows * pitch, "Error of every held-out sample",
        f"{len(errors)} cells in the order of the samples. {len(marked)} are marked because the "
        f"class changed, {over} more have an error over the limit of {number(limit)}.", body,
    )  # fmt: skip


def density(passport: Mapping[str, Any]) -> Markup | None:
    """Values of the source against values of the variant; a perfect variant is the diagonal."""
    picture = passport["picture"]
    joint = picture and picture.get("density")
    if not joint:
        return None
    left, top, side = 46.0, 8.0, 320.0
    cell = side / joint["bins"]
    most = math.log1p(max(count for *_, count in joint["cells"]))
    shades: dict[int, list[tuple[float, float]]] = {}
    for x, y, count in joint["cells"]:
        shade = 1 + min(4, int(5 * math.log1p(count) / most * 0.9999))
        at = (left + x * cell, top + side - (y + 1) * cell)
        shades.setdefault(shade, []).append(at)
    low, high = number(joint["low"], 2), number(joint["high"], 2)
    body = [
        svg.rect(left, top, side, side, "frame"),
        svg.line(left, top + side, left + side, top, "diagonal"),
        *(svg.cells(at, cell, f"d{shade}") for shade, at in sorted(shades.items())),
        svg.text(left, top + side + 18, low, "tick"),
        svg.text(left + side, top + side + 18, high, "tick", "end"),
        svg.text(left + side / 2, top + side + 18, "source", "axis", "middle"),
        svg.text(left - 6, top + side, low, "tick", "end"),
        svg.text(left - 6, top + 10, high, "tick", "end"),
        _vertical(left - 12, top + side / 2, "variant"),
    ]
    return svg.picture(
        left + side + 6, top + side + 26, "Source against variant",
        f"Joint density of all values of output {picture['output']}: equal values lie on the "
        "diagonal.", body,
    )  # fmt: skip


def _vertical(x: float, y: float, content: str) -> str:
    label = svg.text(x, y, content, "axis", "middle")
    return f'<g transform="rotate(-90 {x:.0f} {y:.0f})">{label}</g>'


def bound_scale(passport: Mapping[str, Any]) -> Markup | None:
    """What was seen, what it bounds, and the budget, on one scale."""
    bound, metric = passport["verdict"]["bound"], passport["metric"]
    if not bound or not metric:
        return None
    share = metric["unit"] == "share of samples"
    goal = passport["verdict"]["budget"] if share else passport["limits"]["tail_share"]
    seen, upper = bound["k"] / max(1, bound["n"]), bound["upper"]
    end = max(goal or 0.0, upper, seen) * 1.18 or 1.0
    left, width, y = 12.0, 496.0, 46.0

    def x(value: float) -> float:
        return left + width * value / end

    fits = goal is not None and upper <= goal * (1 + 1e-9)
    kind = "good" if fits else "poor"
    sure = f"{100 * bound['confidence']:g} % sure"
    body = [svg.line(left, y, left + width, y, "rail")]
    if goal:
        body.append(svg.rect(left, y - 11, x(goal) - left, 22, "zone"))
        body.append(svg.line(x(goal), y - 18, x(goal), y + 18, "goal"))
        end_of_rail = x(goal) > left + width / 2
        body.append(svg.text(x(goal) + (-6 if end_of_rail else 6), y - 20,
                             f"{'budget' if share else 'tolerated'} {_percent(goal)}", "label",
                             "end" if end_of_rail else "start"))  # fmt: skip
    body += [
        svg.line(x(seen), y, x(upper), y, f"whisker {kind}"),
        svg.line(x(upper), y - 8, x(upper), y + 8, f"whisker {kind}"),
        svg.circle(x(seen), y, 7, f"seen {kind}"),
        _under(x(seen), y + 34, f"seen: {bound['k']} of {bound['n']}"),
        _under(x(upper), y + 54, f"at most {_percent(upper, up=True)} of all inputs, {sure}"),
    ]
    return svg.picture(
        520, 108, "What the samples prove",
        f"{bound['claim']}. " + (f"The {'budget' if share else 'tolerated share'} is "
        f"{_percent(goal)}, which the bound {'fits' if fits else 'does not fit'}." if goal else ""),
        body,
    )  # fmt: skip


def _under(x: float, y: float, content: str) -> str:
    """Label the place *x* of the scale, leaning to the side that has room."""
    return (
        svg.text(x + 8, y, content, "label", "end")
        if x > 260
        else svg.text(x - 8, y, content, "label")
    )


def _percent(rate: float, *, up: bool = False) -> str:
    from lepton_core.statistics import percent

    return percent(rate, up=up)


def error_histogram(name: str, output: Mapping[str, Any], limit: float) -> Markup | None:
    """Absolute errors of one output on a logarithmic scale, beside what the limit allows."""
    histogram = output.get("histogram")
    if not histogram or not output.get("count") or output["exact"]:
        return None
    first, per = histogram["first_edge_log10"], histogram["bins_per_decade"]
    shares = _shares(histogram)
    marks = _marks(output, limit)
    span = _span(shares, [m for m, *_ in marks], first, per)
    left, top, width, height = 74.0, 24.0, 436.0, 250.0
    top_share = max([*shares, histogram["zero"] / max(1, output["compared"])]) or 1.0

    def x(log: float) -> float:
        return left + width * (log - span[0]) / (span[1] - span[0])

    boxes = []
    for i, share in enumerate(shares):
        low = first + (i - 1) / per
        if share and span[0] <= low < span[1]:
            tall = max(1.5, height * share / top_share)
            wide = x(low + 1 / per) - x(low) - 1.2
            boxes.append((x(low) + 0.6, top + height - tall, wide, tall))
    zero = histogram["zero"] / max(1, output["compared"])
    tall = height * zero / top_share
    body = [
        *_decades(span, x, top, height),
        svg.line(left - 70, top + height, left + width, top + height, "base"),
        svg.bars(boxes, "bar"),
        svg.bars([(10, top + height - tall, 26, tall)] if zero else [], "bar exact"),
        svg.text(23, top + height + 17, "equal", "tick", "middle"),
    ]
    for log, label, kind, anchor in marks:
        if span[0] <= log <= span[1]:
            body.append(svg.line(x(log), top - 14, x(log), top + height, kind))
            shift = -5 if anchor == "end" else 5
            body.append(svg.text(x(log) + shift, top - 6, label, "label", anchor))
    return svg.picture(
        left + width + 16, top + height + 40, f"Absolute errors of {name}",
        f"Histogram over {output['compared']} values on a logarithmic scale; {histogram['zero']} "
        f"are equal, the largest error is {number(output['max_abs'])}.",
        [*body, svg.text(left + width / 2, top + height + 34, "absolute error", "axis", "middle")],
    )  # fmt: skip


def _shares(histogram: Mapping[str, Any]) -> list[float]:
    """Shares of values per bin; errors under and over the grid count in a bin at each end."""
    counts = [histogram["underflow"], *histogram["counts"], histogram["overflow"]]
    total = sum(counts) + histogram["zero"]
    return [count / max(1, total) for count in counts]


def _marks(output: Mapping[str, Any], limit: float) -> list[tuple[float, str, str, str]]:
    """Where the root mean square error and the limit lie: log10, label, class, text anchor."""
    typical = decode_number(output.get("rms_error"))
    allowed = decode_number(output.get("rms_reference")) * limit
    values = [(typical, "typical (RMS)", "typical"), (allowed, "limit", "limit")]
    found = sorted((math.log10(v), t, k) for v, t, k in values if v > 0 and math.isfinite(v))
    # Labels lean away from each other, so that marks may be close.
    return [
        (log, label, kind, "start" if i else "end") for i, (log, label, kind) in enumerate(found)
    ]


def _span(
    shares: Sequence[float], marks: Sequence[float], first: float, per: int
) -> tuple[float, float]:
    used = [first + (i - 1) / per for i, share in enumerate(shares) if share]
    logs = [*used, *(u + 1 / per for u in used), *marks] or [-6.0, 0.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs) + 0.15)
    while high - low < 4:
        low, high = low - 1, high + (high - low < 3)
    return float(low), float(high)


def _decades(span: tuple[float, float], x: Any, top: float, height: float) -> list[str]:  # noqa: ANN401
    every = 1 if span[1] - span[0] <= 8 else 2
    body = []
    for log in range(int(span[0]), int(span[1]) + 1, every):
        body.append(svg.line(x(log), top, x(log), top + height, "grid"))
        body.append(svg.text(x(log), top + height + 17, _power(log), "tick", "middle"))
    return body


def _power(log: int) -> str:
    return (
        "1" if log == 0 else "10" + str(log).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )


__all__ = ["STEP_NAMES", "bound_scale", "density", "error_histogram", "sample_grid", "step_of"]
