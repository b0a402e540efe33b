"""``lepton sensitivity``: what each weight costs at each precision."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._search_options import cache_option, search_options
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import DURATION, METRIC, SEED, SIZE, TargetType, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App
    from lepton_core.context import Context
    from lepton_core.types import Model, OptimizeResult

PAGE = "search.html"


@command(
    "sensitivity",
    examples="""
    lepton sensitivity model.onnx --data samples.npz
    lepton sensitivity digits.py:net --to openvino --data samples.npz --page digits.html
    lepton sensitivity model.onnx --data samples.npz --slices groups.npy --json
    """,
)
@click.argument("model")
@option("--data", metavar="SAMPLES", required=True, help="Real inputs, and labels if there are.")
@option(
    "--to",
    "target",
    metavar="TARGET",
    type=TargetType(),
    default="onnxruntime",
    help="Target that it is measured on.",
)
@option("--rows", type=click.IntRange(min=1), default=128, help="Rows measured on, at most.")
@option("--metric", type=METRIC, metavar="NAME[:OUTPUT]", help="Metric; as for `lepton port`.")
@option(
    "--slices",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="An .npy file with the name of each row's slice; the classes of the labels by default.",
)
@option(
    "--page",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the picture there.",
)
@cache_option
@option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the engine, as for `lepton optimize --precision mixed`; may be repeated.",
)
@option("--seed", type=SEED, default=0, help="Seed of the split of the samples.")
@option("--time-limit", group="Limits", type=DURATION, help="Time for each worker's job.")
@option("--mem-limit", group="Limits", type=SIZE, help="Memory for each worker.")
def sensitivity_command(
    app: App,
    model: str,
    *,
    page: Path | None,
    seed: int,
    time_limit: float | None,
    mem_limit: int | None,
    **given: Any,  # noqa: ANN401
) -> int:
    """Measure what each weight of MODEL costs at each precision.

    Each weight is quantized alone ("only"), and put back to float alone ("back"), at int8, at
    weights of 8 bits and at weights of 4 bits; shown are relative error, divergence of the classes,
    loss of the metric and the slice of rows that loses most. Nothing is compressed:
    `lepton optimize --precision mixed` chooses by it.
    """
    from lepton_core.context import Context
    from lepton_core.types import Limits

    with (
        tempfile.TemporaryDirectory(prefix="lepton-sensitivity-") as workdir,
        app.reporter() as reporter,
    ):
        limits = Limits(time_limit, mem_limit)
        context = Context(Path(workdir), seed, reporter, limits)
        source, result = _measured(app, model, context, given)
        if page is not None:
            _write(page, source, result)
    if app.json:
        told = {"why": result.why, "warnings": list(result.warnings)}
        app.emit({"ok": True, **told, **result.facts, "page": page and str(page)})
    else:
        _show(app, result)
        if page is not None:
            app.line(f"page: {page.absolute()}")
        for warning in result.warnings:
            app.warn(warning)
    return 0


def _measured(
    app: App, text: str, context: Context, given: Mapping[str, Any]
) -> tuple[Model, OptimizeResult]:
    from lepton_core import api
    from lepton_core.built import find_built
    from lepton_core.cli._verb import prepared
    from lepton_core.types import OptimizeRequest, Target

    target = Target.parse(given["target"])
    hooks = app.hooks()
    hooks.registry.target(target.id)
    hooks.engine_owner("optimize", "compress")
    options = {
        "rows": given["rows"], "metric": given["metric"],
        **search_options(given["cache"], given["slices"]), **pairs(given["options"], "--option"),
        "analyse": True,  # whatever else is asked for: nothing is compressed here
    }  # fmt: skip
    built = find_built(text)
    work = context.workdir / "work"
    scratch = context.workdir / "scratch"
    for folder in (work, scratch):
        folder.mkdir()
    source = api.load(text, context=context) if built is None else built.model
    samples, notes = prepared(given["data"], source, scratch)
    request = OptimizeRequest(
        target.id, precision="mixed", samples=samples, options=options, device=target.device
    )
    result = hooks.optimize(source, request, replace(context, workdir=work))
    return source, replace(result, warnings=(*notes, *result.warnings))


def _show(app: App, result: OptimizeResult) -> None:
    from lepton_core.cli._port import size_text
    from lepton_core.report.search import bars

    facts = result.facts["sensitivity"]
    table = sorted(facts["table"], key=lambda one: -_number(one["only"]["error"]))
    drawn = bars([_number(one["only"]["error"]) for one in table])
    rows = []
    for one, bar in zip(table, drawn, strict=True):
        only, back = one["only"], one["back"]
        worst = f"{only['worst_slice']} {only['slice_drop']:.3g}" if only["worst_slice"] else ""
        cells = (one["unit"], one["precision"], size_text(max(0, one["saved_bytes"])),
                 f"{_number(only['error']):.2e}", bar, _text(only["kl"]), _text(only["drop"]),
                 worst, _text(back and back["error"], ".2e"))  # fmt: skip
        rows.append(Row(cells))
    columns = [Column("weight of", whole=True), Column("precision", whole=True)]
    columns += [Column("saves", right=True), Column("only", right=True), Column("")]
    columns += [Column("KL", right=True), Column("loss", right=True), Column("worst slice")]
    columns.append(Column("back", right=True))
    app.table(columns, rows)
    app.line()
    counts = f"{result.facts['measured']} measured, {result.facts['from_cache']} known"
    app.line(f"{result.why}; {result.facts['measured_on']} rows, {counts}")


def _number(value: float | None) -> float:
    return float("inf") if value is None else value


def _text(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def write_page(stage: Path, source: Model, result: OptimizeResult) -> None:
    """Write ``search.html`` beside a result that has sensitivities."""
    if "sensitivity" in result.facts:
        _write(stage / PAGE, source, result)


def _write(place: Path, source: Model, result: OptimizeResult) -> None:
    from lepton_core.files import write_named
    from lepton_core.origins import LOCATIONS
    from lepton_core.report.search import render_search

    places = {**source.metadata.get(LOCATIONS, {}), **result.model.metadata.get(LOCATIONS, {})}
    html = render_search(result.facts, model=Path(source.path).name, why=result.why, places=places)
    write_named(place, html)


__all__ = ["sensitivity_command", "write_page"]
