"""Pages: a passport, or a whole port, as one self-contained HTML file.

A page loads nothing: style and pictures are inline, there are no scripts, and every text that
comes from outside is escaped. It follows the reader's light or dark mode, prints, and every chart
has a text alternative. Sample values are never shown, because a passport does not hold them; a
passport's page holds pictures of its worst samples where that was asked for, and then says so.

This is a work module: it imports jinja2.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from lepton_core.passport import validate_passport
from lepton_core.report import charts
from lepton_core.report._format import FILTERS
from lepton_core.report._port_charts import bubbles, sample_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


MAX_HISTOGRAMS = 12
"""Outputs whose histogram is drawn, those nearest to their limit; the table lists all."""


def render_passport(
    passport: Mapping[str, Any], *, pictures: Mapping[int, str] | None = None
) -> str:
    """Return a passport as an HTML page.

    Args:
        passport: A passport of schema 1.
        pictures: ``data:`` URI of a worst sample by its row number
            (:func:`lepton_core.report.thumbnails.worst_pictures`); none by default, because
            samples are stored only when that is asked for.

    Raises:
        LeptonError: ``LPT-PASS-001`` or ``LPT-PASS-002``, it is not one.
    """
    validate_passport(passport)
    limit = passport["limits"]["applied"]["rel_l2"]
    histograms = [
        (name, charts.error_histogram(name, output, limit))
        for name, output in sorted(passport["outputs"].items(), key=_by_error)
    ]
    pictures = pictures or {}
    return _template("passport.html.j2").render(
        p=passport,
        pictures=pictures,
        shown=sum(entry["row"] in pictures for entry in passport["worst"]),
        grid=charts.sample_grid(passport),
        density=charts.density(passport),
        bound=charts.bound_scale(passport),
        histograms=[(name, chart) for name, chart in histograms if chart][:MAX_HISTOGRAMS],
    )


def render_port(
    result: Mapping[str, Any],
    passports: Sequence[Mapping[str, Any] | None],
    *,
    pages: Sequence[str | None] = (),
) -> str:
    """Return a whole port as an HTML page.

    Args:
        result: The object that ``lepton port --json`` prints.
        passports: The passport of each of ``result["variants"]``, in their order; ``None`` where
            there is none because the variant could not be built.
        pages: Path of each variant's own page relative to this one, to link to; none by default.

    Raises:
        LeptonError: ``LPT-PASS-001`` or ``LPT-PASS-002``, one of *passports* is not one.
        ValueError: There is not one entry in *passports* per variant.
    """
    variants = list(result["variants"])
    links = [*pages, *[None] * (len(variants) - len(pages))]
    rows = list(zip(variants, passports, links, strict=True))
    built = [passport for passport in passports if passport is not None]
    for passport in built:
        validate_passport(passport)
    # Charts number variants as the table does, by their place among those with a passport.
    numbers, count = [], 0
    for _, found, _ in rows:
        count += found is not None
        numbers.append(count if found is not None else None)
    return _template("port.html.j2").render(
        result=result,
        rows=[(n, *row) for n, row in zip(numbers, rows, strict=True)],
        first=built[0] if built else None,
        facts=_environment_of(built),
        bubbles=bubbles(built),
        strips=sample_rows(built),
    )


def _environment_of(passports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the environment of passports of one run: the machine's, with the packages of all."""
    facts: dict[str, Any] = {}
    packages: dict[str, str] = {}
    for passport in passports:
        facts = {**passport["environment"], **facts}
        for name, version in passport["environment"].get("packages", {}).items():
            packages.setdefault(name, version)
    return {**facts, **({"packages": packages} if packages else {})}


def _by_error(item: tuple[str, Mapping[str, Any]]) -> float:
    """Order outputs by falling error; those that cannot be compared come first."""
    error = item[1].get("rel_l2")
    return -float(error) if error is not None else -float("inf")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals["step_names"] = charts.STEP_NAMES
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


__all__ = ["render_passport", "render_port"]
