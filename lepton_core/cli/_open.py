"""``lepton open``: run a model, or show what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import TargetType, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from lepton_core.cli._app import App
    from lepton_core.context import Context, Reporter, Session


@command(
    "open",
    examples="""
    lepton open model.onnx
    lepton open lepton-out/onnxruntime/fp16 --data samples.npz --out outputs.npz
    lepton open model.onnx --to onnxruntime --threads 2 --data samples.npz --json
    lepton open lepton-out/tflite/int8 --execution
    """,
)
@click.argument("model")
@option(
    "--to",
    "target",
    metavar="TARGET",
    type=TargetType(),
    help="Target that runs it; by default the one it was built for, else the one that runs its "
    "format best.",
)
@option("--data", metavar="SAMPLES", help="Inputs to run: .npz, folder of .npy, file.py:callable.")
@option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the outputs there as .npz.",
)
@option(
    "--threads", type=click.IntRange(min=1), help="Threads; sized to the container if not given."
)
@option(
    "--reference",
    is_flag=True,
    show_default=False,
    help="Run as the yardstick: strictest arithmetic, no graph optimisation.",
)
@option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the session, as the target's plugin takes it; may be repeated.",
)
@option(
    "--execution",
    is_flag=True,
    show_default=False,
    help="List which nodes run where, in which precision.",
)
def open_command(
    app: App,
    model: str,
    *,
    target: str | None,
    data: str | None,
    out: Path | None,
    threads: int | None,
    reference: bool,
    options: tuple[str, ...],
    execution: bool,
) -> int:
    """Run MODEL, or show its signature and facts.

    MODEL is a source, or something that lepton built: an artifact, its directory, its passport.
    Without --data nothing is run: the signature and what the session tells are shown.
    """
    from lepton_core.context import Context
    from lepton_core.errors import UsageError

    if out is not None and data is None:
        raise UsageError(
            "LPT-USE-109", "--out needs --data", remedy="Give the inputs to run with --data."
        )
    with (
        tempfile.TemporaryDirectory(prefix="lepton-open-") as workdir,
        app.reporter() as reporter,
    ):
        context = Context(Path(workdir), reporter=reporter)
        how = {
            "threads": threads,
            "reference": reference,
            "options": pairs(options, "--option"),
        }
        with _session(app, model, context, target=target, **how) as session:
            executed = _executed(session) if execution else {}  # before anything is written
            outputs, notes = ({}, ()) if data is None else _run(session, data, reporter)
            if out is not None:
                from lepton_core.cli._arrays import write_npz

                write_npz(out, outputs)
            signature, facts = session.signature, dict(session.facts)
    result = {**_result(signature, facts, outputs, out), **executed}
    if app.json:
        app.emit({"ok": True, **result, "notes": list(notes)})
    else:
        for note in notes:
            app.warn(note)
        _show(app, result)
    return 0


def _session(
    app: App,
    text: str,
    context: Context,
    *,
    target: str | None,
    **how: Any,  # noqa: ANN401
) -> Session:
    """Open what the user named; *how* are fields of the request."""
    from lepton_core import api
    from lepton_core.built import find_built
    from lepton_core.types import OpenRequest, Target

    parsed = Target.parse(target) if target else None
    if parsed is not None:
        app.hooks().registry.target(parsed.id)
    built = find_built(text)
    if built is None:
        return api.open(
            text,
            target=parsed.id if parsed else "",
            device=parsed.device if parsed else None,
            context=context,
            **how,
        )
    parsed = parsed or Target.parse(built.target)
    request = OpenRequest(parsed.id, parsed.device, **how)
    return app.hooks().open(built.model, request, context)


def _run(
    session: Session, data: str, reporter: Reporter
) -> tuple[dict[str, np.ndarray[Any, Any]], tuple[str, ...]]:
    """Run all samples; returns outputs with one row per sample, and what was done to inputs."""
    from lepton_core.samples import collect_outputs, load_samples, match

    samples = match(load_samples(data), session.signature)
    bar = reporter.task(f"run {len(samples)} samples", len(samples))
    outputs = collect_outputs(session.run, samples, session.signature, on_rows=bar.advance)
    bar.finish()
    return outputs, tuple(samples.notes)


def _executed(session: Session) -> dict[str, Any]:
    from lepton_core.execution import execution_map

    return {"execution": execution_map(session).to_dict()}


def _result(
    signature: Any,  # noqa: ANN401 - a Signature
    facts: dict[str, Any],
    outputs: Mapping[str, np.ndarray[Any, Any]],
    out: Path | None,
) -> dict[str, Any]:
    from lepton_core.codec import to_data

    summaries: dict[str, Any] = {}
    if outputs:
        from lepton_core.cli._arrays import summary

        summaries = {name: summary(array) for name, array in outputs.items()}
    return {
        "signature": {**to_data(signature), "text": str(signature)},
        "facts": to_data(facts),
        "outputs": summaries,
        "out": str(out) if out is not None else None,
    }


def _show(app: App, result: dict[str, Any]) -> None:
    for side in ("inputs", "outputs"):
        for spec in result["signature"][side]:
            dims = ", ".join("?" if d is None else str(d) for d in spec["shape"])
            app.line(f"{side[:-1]:7} {spec['name']}: {spec['dtype']}[{dims}]")
    for name, value in result["facts"].items():
        if name != "execution":  # what --execution shows
            app.line(f"{name}: {_plain(value)}")
    if "execution" in result:
        _show_execution(app, result["execution"])
    if result["outputs"]:
        _show_outputs(app, result)


def _show_execution(app: App, found: dict[str, Any]) -> None:
    """Show one row per node, and how many nodes each provider runs in each precision."""
    app.line()
    columns = [Column("node"), Column("operator", whole=True), Column("stands for")]
    columns += [Column("runs on", whole=True), Column("precision", whole=True)]
    rows = []
    for node in found["nodes"]:
        place = " on ".join(filter(None, (node["provider"], node["device"])))
        sources = ", ".join(node["sources"])
        rows.append(Row((node["name"], node["operator"], sources, place, node["precision"])))
    app.table(columns, rows)
    for provider, counts in found["totals"]["providers"].items():
        app.line(f"{provider}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    for note in found["notes"]:
        app.line(note)


def _show_outputs(app: App, result: dict[str, Any]) -> None:
    app.line()
    rows = []
    for name, facts in result["outputs"].items():
        numbers = [f"{facts[k]:.4g}" if k in facts else "" for k in ("min", "max", "mean")]
        shape = " x ".join(map(str, facts["shape"]))
        broken = str(facts["not_finite"]) if facts.get("not_finite") else ""
        rows.append(Row((name, facts["dtype"], shape, *numbers, broken)))
    columns = [Column("output", whole=True), Column("dtype"), Column("shape")]
    columns += [Column(t, right=True) for t in ("min", "max", "mean", "not finite")]
    app.table(columns, rows)
    if result["out"]:
        app.line(f"outputs: {result['out']}")


def _plain(value: Any) -> str:  # noqa: ANN401 - any fact
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(inner)}" for key, inner in value.items())
    return str(value)


__all__ = ["open_command"]
