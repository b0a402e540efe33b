"""``lepton bisect``: the first value at which two variants part."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import DURATION, SIZE, FiniteType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_core.bisecting import Bisection, Parting
    from lepton_core.cli._app import App

_AROUND = 3
"""Values shown before and behind the first one at which the variants part."""
_FEW = 12
"""Values up to which all are shown."""


@command(
    "bisect",
    examples="""
    lepton bisect lepton-out/onnxruntime/fp32 lepton-out/onnxruntime/int8 --data samples.npz
    lepton bisect lepton-out/onnxruntime/fp32 lepton-out/openvino/fp32 --data samples.npz
    # one variant against the pivot that it was lowered from
    lepton bisect lepton-out/openvino/fp16 --data samples.npz --json
    # a Core ML package that is not what was built: its own values against its pivot's
    lepton bisect lepton-out/onnxruntime/fp32 shipped/model.mlpackage --data samples.npz
    """,
)
@click.argument("first")
@click.argument("second", required=False)
@option("--data", metavar="SAMPLES", required=True, help="Real inputs to compare on.")
@option(
    "--tolerance",
    type=FiniteType(),
    metavar="X",
    help="Largest relative L2 error of a value that does not count; by default the looser limit "
    "of the two precisions.",
)
@option("--rows", type=click.IntRange(min=1), default=64, help="Samples to run, spread evenly.")
@option("--all", "show_all", is_flag=True, show_default=False, help="Show every value.")
@option("--threads", type=click.IntRange(min=1), help="Threads of each session.")
@option("--time-limit", group="Limits", type=DURATION, help="Time for each worker's job.")
@option("--mem-limit", group="Limits", type=SIZE, help="Memory for each worker.")
def bisect_command(
    app: App,
    first: str,
    second: str | None,
    *,
    data: str,
    show_all: bool,
    time_limit: float | None,
    mem_limit: int | None,
    **given: Any,  # noqa: ANN401
) -> int:
    """Find the first value at which FIRST and SECOND part, and the operator that makes the error.

    Both are variants that lepton lowered from one pivot, for any runtimes and precisions; without
    SECOND, FIRST is compared with that pivot. The pivot's inner values are made outputs, and it is
    lowered again in both ways. "Own" is the error of an operator that is fed what FIRST feeds it:
    made there, and not carried in.

    A Core ML package that was changed, or that has lost its card or its pivot, is looked into as
    it is: its own values, against the other package of the same precision, or against the pivot
    lowered again.

    Exit code: 0 no value parts; 1 one does; 2 wrong usage, variants or samples.
    """
    from lepton_core.bisecting import bisect
    from lepton_core.context import Context
    from lepton_core.types import Limits

    with (
        tempfile.TemporaryDirectory(prefix="lepton-bisect-") as workdir,
        app.reporter() as reporter,
    ):
        context = Context(Path(workdir), reporter=reporter, limits=Limits(time_limit, mem_limit))
        found = bisect(first, second, data, hooks=app.hooks(), context=context, **given)
    if app.json:
        app.emit(found.to_dict())
    else:
        _show(app, found, show_all=show_all)
    return 0 if found.parted is None else 1


def _show(app: App, found: Bisection, *, show_all: bool) -> None:
    app.line(f"{found.first.name} ({found.first.runtime})")
    app.line(f"{found.second.name} ({found.second.runtime})")
    whose = "the artifact's own program" if found.inside else "the pivot"
    app.line(
        f"{len(found.values)} values of {whose} on {found.rows} samples, tolerance "
        f"{found.tolerance:g} (relative L2)"
    )
    app.line()
    rows = _chosen(found, show_all=show_all)
    _table(app, found, rows)
    app.line()
    for line in (*left_out(found, rows), *conclusion(found)):
        app.line(line)
    for line in found.differences[:_AROUND]:
        app.line(f"Differs: {line}.")
    if len(found.differences) > _AROUND:
        app.line(f"Differs: {len(found.differences) - _AROUND} more (--json has all).")
    for note in found.notes:
        app.warn(note)


def _chosen(found: Bisection, *, show_all: bool) -> list[Parting]:
    if show_all or len(found.values) <= _FEW:
        return list(found.values)
    if found.parted is None:
        return sorted(found.values, key=lambda one: -one.error)[:_AROUND]
    names = [one.value for one in found.values]
    at = names.index(found.parted.value)
    near = set(names[max(0, at - _AROUND) : at + _AROUND + 1])
    near |= {one.value for one in found.contributors}
    return [one for one in found.values if one.value in near]


def _table(app: App, found: Bisection, rows: list[Parting]) -> None:
    columns = [
        Column(""),
        Column("value", whole=True, key=True),
        Column("operator"),
        Column("where"),
    ]
    columns += [Column(t, right=True) for t in ("error", "own error", "largest", "max abs")]
    columns.append(Column("may be"))
    drawn = []
    for one in rows:
        marks = [
            mark for mark, so in (("parts", found.parts(one)), ("made", found.makes(one))) if so
        ]
        own = "" if one.own is None else f"{one.own:.2e}"
        cells = (", ".join(marks), one.value, one.operator, one.place, f"{one.error:.2e}",
                 own, f"{one.largest:.4g}", f"{one.max_abs:.2e}", one.hint)  # fmt: skip
        drawn.append(Row(cells, style="red" if marks else ""))
    app.table(columns, drawn)


def left_out(found: Bisection, rows: Sequence[Parting]) -> list[str]:
    """Return in sentences what a table of some of the values does not show."""
    total, lines = len(found.values), []
    if len(rows) < total:
        parted = sum(map(found.parts, found.values))
        which = "around the first to part, and those whose operators err most"
        which = which if found.parted else "with the largest errors"
        part = f"{parted} of the {total} part" if parted else "none parts"
        lines.append(
            f"Shown: {len(rows)} of {total} values, {which}; {part}. --all shows every value."
        )
    if found.parted is not None and any(one.own is None for one in rows):
        lines.append(
            "Own errors that are missing were not measured: that is done on the way to the first "
            "value to part."
        )
    return lines


def conclusion(found: Bisection) -> list[str]:
    """Return what was found, in sentences."""
    if found.parted is None:
        return [f"No value parts: every error is within {found.tolerance:g}."]
    lines = [f"First to part: {_named(found.parted)}, error {found.parted.error:.3g}."]
    if found.culprit is None:
        top = ", ".join(f"{one.value} ({one.own or 0:.2g})" for one in found.contributors[:3])
        lines.append(f"No operator alone exceeds the tolerance; errors add up, most from: {top}.")
    elif found.culprit.value == found.parted.value:
        lines.append(f"Made there: fed the first variant's values, its error is "
                     f"{found.culprit.own:.3g}.")  # fmt: skip
    else:
        lines.append(f"Made before, by {_named(found.culprit)}, own error "
                     f"{found.culprit.own:.3g}.")  # fmt: skip
    hint = (found.culprit or found.parted).hint
    return [*lines, *([f"It may be that {hint}."] if hint else [])]


def _named(one: Parting) -> str:
    place = f" at {one.place}" if one.place else ""
    return f"{one.value} ({one.operator}{place})"


__all__ = ["bisect_command", "conclusion", "left_out"]
