"""``lepton verify``: is it still what was proved, and is it still the same model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._store_place import store_option
from lepton_core.cli._types import DURATION, METRIC, SIZE, FiniteType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App
    from lepton_core.cli._reverify import Outcome

_COLORS = {"pass": "green", "weak": "yellow", "fail": "red"}


@command(
    "verify",
    examples="""
    # digests only
    lepton verify lepton-out/onnxruntime/fp16
    # run both again and judge anew
    lepton verify lepton-out/onnxruntime/fp16 --data samples.npz
    lepton verify lepton-out/onnxruntime/fp16 --against model.onnx --data new.npz --json
    # take in what a Mac measured with the bundle's prove_on_mac.py
    lepton verify lepton-out/coreml/fp16 --merge device-proof.json
    """,
)
@click.argument("variant")
@option("--data", metavar="SAMPLES", help="Real inputs to compare on; digests only without it.")
@option(
    "--against",
    metavar="SOURCE",
    help="Source to compare with; the one recorded in the passport if not given, or the pivot kept "
    "in its result if that is gone.",
)
@option(
    "--metric",
    type=METRIC,
    metavar="NAME[:OUTPUT]",
    help="Metric; the recorded one if not given.",
)
@option("--max-drop", type=FiniteType(), metavar="X", help="Budget; the recorded one if not given.")
@option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the new passport there.",
)
@option(
    "--merge",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take in a proof from a device: judge it anew and write it into the passport.",
)
@store_option
@option("--threads", type=click.IntRange(min=1), help="Threads of each session.")
@option("--allow-weak", is_flag=True, show_default=False, help="Exit 0 although it is only weak.")
@option("--time-limit", group="Limits", type=DURATION, help="Time for each worker's job.")
@option("--mem-limit", group="Limits", type=SIZE, help="Memory for each worker.")
def verify_command(
    app: App,
    variant: str,
    *,
    out: Path | None,
    merge: Path | None,
    place: Path | None,
    allow_weak: bool,
    time_limit: float | None,
    mem_limit: int | None,
    **given: Any,  # noqa: ANN401
) -> int:
    """Re-check VARIANT against the digests in its passport and against its source.

    VARIANT is an artifact that lepton built, its directory, its passport, or a bundle. With --data,
    source and variant are run again and a new verdict is given, with what a compressed one gains
    over the fp32 variant beside it in the result of `lepton port`. With --merge, the passport is
    written again with what a device measured; its golden pairs are those of the deployment in the
    store.

    Exit code: 0 the digests hold and the new verdict, if there is one, is pass; 1 something is
    not what was proved, the proof does not belong to it, or the verdict is fail; 3 it is only weak.
    """
    if merge is not None:
        return _merge(app, variant, merge, out=out, store=place, **given)
    from lepton_core.cli._reverify import verify
    from lepton_core.context import Context
    from lepton_core.types import Limits

    with (
        tempfile.TemporaryDirectory(prefix="lepton-verify-") as workdir,
        app.reporter() as reporter,
    ):
        limits = Limits(time_limit, mem_limit)
        context = Context(Path(workdir), reporter=reporter, limits=limits)
        outcome = verify(variant, hooks=app.hooks(), context=context, **given)
        if out is not None and outcome.passport is not None:
            from lepton_core.files import write_named
            from lepton_core.passport import dump_passport

            write_named(out, dump_passport(outcome.passport))
    if app.json:
        app.emit(outcome.to_dict())
    else:
        _show(app, outcome, out)
    if outcome.verdict == "weak":
        return 0 if allow_weak else 3
    return 0 if outcome.verdict in ("pass", None) else 1


def _merge(
    app: App,
    variant: str,
    file: Path,
    *,
    out: Path | None,
    store: Path | None,
    **given: Any,  # noqa: ANN401
) -> int:
    from lepton_core.cli._merge import merge
    from lepton_core.errors import UsageError

    other = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if other:
        raise UsageError(
            "LPT-CLI-010",
            f"--merge does not go together with {', '.join(other)}",
            cause="it runs nothing here: the device has measured",
            remedy="Run the command twice, once with each.",
        )
    outcome = merge(variant, file, hooks=app.hooks(), out=out, store=store)
    if app.json:
        app.emit(outcome.to_dict())
    else:
        _show(app, outcome, None)
    return 0 if outcome.verdict == "pass" else 1


def _show(app: App, outcome: Outcome, out: Path | None) -> None:
    from lepton_core.cli._port import metric_text

    app.line(f"{outcome.path}  ({outcome.target}, {outcome.precision})")
    app.line(f"  digest:   {outcome.digest} as recorded")
    if outcome.origin:
        app.line(f"  source:   is gone; {outcome.source}, kept from it, stands in its place")
    elif outcome.source_unchanged is not None:
        state = "as recorded" if outcome.source_unchanged else "not the one recorded"
        app.line(f"  source:   {outcome.source} {state}")
    app.line(f"  recorded: {outcome.recorded}")
    if outcome.proof:
        app.line(f"  proof:    {outcome.proof}")
    if outcome.device is not None:
        _show_device(app, outcome, outcome.device)
        return
    if outcome.verdict is None:
        app.line("  not run:  give --data to compare the outputs again")
        return
    verdict = app.style(outcome.verdict, fg=_COLORS.get(outcome.verdict))
    app.line(f"  now:      {verdict}: {outcome.why}")
    data = outcome.to_dict()
    for name, text in (
        ("metric", metric_text(data["metrics"])),
        ("gain", (data["gain"] or {}).get("text", "")),
        ("rows", "the recorded held-out rows" if outcome.same_rows else "other rows than recorded"),
        ("passport", str(out) if out else ""),
    ):
        if text:
            app.line(f"  {name + ':':9} {text}")


def _show_device(app: App, outcome: Outcome, device: Mapping[str, Any]) -> None:
    from lepton_core.cli._port import number_text

    verdict = app.style(device["verdict"], fg=_COLORS.get(device["verdict"]))
    app.line(f"  device:   {verdict}: {device['why']}")
    for run in device["runs"]:
        errors = [o["rel_l2"] for o in run["outputs"].values() if o.get("rel_l2") is not None]
        worst = f"rel. L2 {number_text(max(map(float, errors)))}" if errors else ""
        times = f"{number_text(run['latency']['p50_ms'])} ms" if run["latency"] else ""
        app.line(f"  {run['units'] + ':':12} {run['verdict']}  {worst}  {times}".rstrip())
    app.line(f"  passport: {outcome.written}")


__all__ = ["verify_command"]
