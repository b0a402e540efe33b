"""The part of the kernels' page that holds measurements, written from a report of `kernels.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = "<!-- measurements: written by tests/bench/kernels.py --page -->"
END = "<!-- end of measurements -->"


def write_page(page: Path, report: dict[str, Any]) -> None:
    """Replaces the measurements of a page.

    Args:
        page: A Markdown file that holds both marks.
        report: What `kernels.py` writes as JSON.

    Raises:
        ValueError: A mark is missing.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}")
    text = "\n".join([before + BEGIN, *_measurements(report), END + after])
    page.write_text(text, encoding="utf-8")


def _measurements(report: dict[str, Any]) -> list[str]:
    environment = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        "",
        f"{environment['processor']}, instruction set {environment['simd']}, "
        f"{environment['threads']} CPUs; {versions}.",
        "",
    ]
    for name, case in report["cases"].items():
        lines += [f"**{name}**: {case['what']}", "", *_table(case["peers"])]
        lines += [f"Absent: {peer} ({why})." for peer, why in case["absent"].items()]
        lines += ["", *_load(case["environment"])]
    return [*lines, *goals_table(report["goals"]), ""]


def _load(environment: dict[str, Any]) -> list[str]:
    before, after = environment["load"], environment["load_after"]
    if not before or not after:
        return []
    return [f"Load average {before[0]:.1f} before, {after[0]:.1f} after.", ""]


def goals_table(goals: list[dict[str, Any]]) -> list[str]:
    """The lines of the goals' table.

    Args:
        goals: What `judge` returns.

    Returns:
        Lines of Markdown.
    """
    lines = ["| goal | set by | measured | |", "|---|---|---|---|"]
    for goal in goals:
        cells = (goal["goal"], goal["set_by"], goal["measured"], goal["verdict"])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _table(peers: dict[str, Any]) -> list[str]:
    lines = ["| | CPU ms, best | median | wall ms, best | MB | unlike | error |"]
    lines.append("|---|---|---|---|---|---|---|")
    for peer, row in peers.items():
        times = [row["cpu_s"]["best"], row["cpu_s"]["median"], row["wall_s"]["best"]]
        cells = [f"{1e3 * seconds:.1f}" for seconds in times]
        for key, shown in (
            ("peak_mb", "{:.0f}"),
            ("values_unlike_definition", "{}"),
            ("error", "{:.4g}"),
        ):
            cells.append("" if row[key] is None else shown.format(row[key]))
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return lines
