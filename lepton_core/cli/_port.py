"""``lepton port``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lepton_core.cli._command import command, option
from lepton_core.cli._sparse_options import (
    default_precision,
    sparse_options,
    take_sparse_options,
)
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import (
    DURATION,
    METRIC,
    PRECISION_LIST,
    SEED,
    SIZE,
    DurationType,
    FiniteType,
    TargetType,
    split_list,
    target_pairs,
)
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App
    from lepton_core.porting import PortResult
    from lepton_core.types import Variant

_VERDICTS = {"pass": "green", "weak": "yellow", "fail": "red"}
COLUMNS = (
    Column("target", whole=True, key=True),
    Column("precision", whole=True, key=True),
    Column("size", right=True, whole=True),
    Column("p50 / p95 ms", right=True),
    Column("metric"),
    Column("rel L2", right=True, whole=True),
    Column("verdict", whole=True),
    Column("kept", whole=True),
)


@command(
    "port",
    examples="""
    lepton port model.onnx --to onnxruntime --data samples.npz
    lepton port digits.py:net --to onnxruntime --precision fp32,fp16 --data digits.npz
    # fail the build if accuracy drops by more than half a point
    lepton port model.pt2 --to onnxruntime,torch --data val.npz --metric top1 --max-drop 0.005
    lepton port net.pt2 --to onnxruntime,tflite --option tflite.layout=nhwc --data val.npz
    # for programs
    lepton port model.onnx --to onnxruntime --data samples.npz --json > result.json
    """,
)
@click.argument("model")
@option(
    "--to",
    "targets",
    group="What to build",
    multiple=True,
    required=True,
    metavar="TARGET[,TARGET]",
    type=TargetType(several=True),
    help="Targets, such as onnxruntime or tflite:android-arm64; may be repeated.",
)
@option(
    "--precision",
    "precisions",
    group="What to build",
    multiple=True,
    type=PRECISION_LIST,
    default=("fp32",),
    metavar="PRECISION[,...]",
    help="Precisions to build for each target: fp32, fp16, int8, int4, mixed, sparse, palette, …; "
    "with --sparsity, --pattern or --palette fp32 and sparse or palette if not given.",
)
@option(
    "--option",
    "options",
    group="What to build",
    multiple=True,
    metavar="TARGET.KEY=VALUE",
    help="Setting of the conversions to one target, as `lepton convert --option` takes it: "
    "tflite.layout=nhwc, or tflite/int8.weights=dynamic for one precision; may be repeated.",
)
@sparse_options("of sparse, palette and mixed, other precisions stay whole", "What to build")
@option(
    "--out",
    group="What to build",
    default="lepton-out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the result: new, empty, or an earlier result, which is replaced.",
)
@option(
    "--force",
    group="What to build",
    is_flag=True,
    show_default=False,
    help="Replace what is at --out even if lepton did not write it.",
)
@option(
    "--data",
    group="Proof",
    metavar="SAMPLES",
    help="Real inputs: a .npz with one array per input and maybe labels, a folder of .npy, or "
    "file.py:callable. Without it, no verdict is better than weak.",
)
@option(
    "--metric",
    group="Proof",
    type=METRIC,
    metavar="NAME[:OUTPUT]",
    help="What must not drop: top1, top5, cosine, rel_l2, …; chosen by outputs and labels if "
    "not given.",
)
@option(
    "--max-drop",
    group="Proof",
    type=FiniteType(),
    metavar="X",
    help="Largest accepted loss in the metric's own unit (0.005 = half a point of top-1).",
)
@option("--seed", group="Proof", type=SEED, default=0, help="Seed of the split of the samples.")
@option(
    "--timing",
    "latency_seconds",
    group="Proof",
    type=DurationType(zero=True),
    default="0.4s",
    help="Time to spend on timing each variant; 0 leaves times out, so that what is compressed is "
    "kept for its size alone.",
)
@option(
    "--show-samples",
    group="Proof",
    is_flag=True,
    show_default=False,
    help="Store pictures of the worst samples in the page.",
)
@option(
    "--strict",
    group="Exit code",
    is_flag=True,
    show_default=False,
    help="Exit 1 if any requested variant is not kept.",
)
@option(
    "--allow-weak",
    group="Exit code",
    is_flag=True,
    show_default=False,
    help="Exit 0 although the best verdict is only weak.",
)
@option(
    "--threads",
    group="Limits",
    type=click.IntRange(min=1),
    help="Threads of each session; sized to the container if not given.",
)
@option(
    "--time-limit",
    group="Limits",
    type=DURATION,
    help="Time for each worker's job, such as 90s, 15m or 1h30m.",
)
@option(
    "--mem-limit", group="Limits", type=SIZE, help="Memory for each worker, such as 512M or 4G."
)
def port_command(app: App, model: str, *, strict: bool, allow_weak: bool, **given: Any) -> int:  # noqa: ANN401
    """Build and prove MODEL for one or more targets.

    MODEL is model.onnx, file.py:factory, model.pt2, a Hugging Face directory or cached name.
    Every variant is compared with MODEL on held-out samples and gets a passport. A variant is
    kept only if it is within the limits and, if compressed, smaller or faster.

    Exit code: 0 every target has a kept variant that passed; 1 some target has none; 3 the best
    is only weak; 2 wrong usage, model or samples; 4 a plugin is missing or not able; 5 storage.
    """
    from lepton_core.porting import port
    from lepton_core.types import Limits

    limits = Limits(given.pop("time_limit"), given.pop("mem_limit"))
    targets = split_list(given.pop("targets"))
    options = target_pairs(given.pop("options"), "--option")
    compression = take_sparse_options(given)
    precisions = split_list(given.pop("precisions"))
    source = click.get_current_context().get_parameter_source("precisions")
    if compression and source is not ParameterSource.COMMANDLINE:
        precisions = ("fp32", default_precision(compression))
    require(targets, "--to", "a target, such as onnxruntime; `lepton targets` lists them")
    require(precisions, "--precision", "a precision, such as fp32")
    with app.reporter() as reporter:
        result = port(
            model,
            targets=targets,
            samples=given.pop("data"),
            precisions=precisions,
            limits=limits,
            reporter=reporter,
            hooks=app.hooks(),
            compression=compression,
            options=options,
            **given,
        )
    if app.json:
        app.emit(result.to_dict())
    else:
        show_result(app, result)
    return result.exit_code(strict=strict, allow_weak=allow_weak)


def require(values: tuple[str, ...], name: str, what: str) -> None:
    """Refuse an option that was given but names nothing.

    Raises:
        UsageError: There is no value.
    """
    if not values:
        raise UsageError("LPT-USE-108", f"{name} names nothing", remedy=f"Give {what}.")


def show_result(app: App, result: PortResult) -> None:
    """Print the table, the page's path, and what the exit code will mean."""
    data = result.to_dict()
    app.table(COLUMNS, [variant_row(variant) for variant in data["variants"]])
    app.line()
    for variant in data["variants"]:
        app.line(f"{variant['target']} {variant['precision']}: {variant['why']}")
    for warning in dict.fromkeys(w for v in result.variants for w in _warnings(v)):
        app.warn(warning)
    if result.report.is_file():
        app.line(f"page: {result.report}")
    if data["ok"]:
        return
    for one in result:
        verdicts = {v.verdict for v in one.variants if v.kept}
        if not verdicts:
            app.note(f"{one.target}: nothing was kept")
        elif "pass" not in verdicts:
            app.note(f"{one.target}: the best is only weak; --allow-weak accepts that")


def _warnings(variant: Variant) -> list[str]:
    return list(variant.passport["warnings"]) if variant.passport is not None else []


def variant_row(variant: Mapping[str, Any]) -> Row:
    """Return the table's row of one variant of the JSON contract."""
    verdict = variant["verdict"]
    kept = "yes" if variant["kept"] else "no"
    return Row(
        (
            variant["target"],
            variant["precision"],
            size_text(variant["size_bytes"]),
            latency_text(variant["latency_ms"]),
            metric_text(variant["metrics"]),
            number_text((variant["errors"] or {}).get("rel_l2")),
            verdict,
            kept,
        ),
        "" if variant["kept"] else "dim",
        ((6, _VERDICTS.get(verdict, "")),),
    )


def size_text(size: float | None) -> str:
    """Return a size in binary units with three digits, as pages do."""
    from lepton_core.report._format import size as written

    return "" if size is None else written(size)


def latency_text(latency: Mapping[str, Any] | None) -> str:
    """Return ``p50 / p95`` in milliseconds."""
    if not latency or latency.get("p50") is None:
        return ""
    return f"{latency['p50']:.3g} / {latency['p95']:.3g}"


def metric_text(metric: Mapping[str, Any] | None) -> str:
    """Return ``top1 0.978 -> 0.977 (drop 0.001)``."""
    if not metric or metric.get("name") is None:
        return ""
    source, variant = number_text(metric.get("source")), number_text(metric.get("variant"))
    drop = number_text(metric.get("drop"))
    arrow = f"{source} -> {variant}" if source else variant
    return f"{metric['name']} {arrow}" + (f" (drop {drop})" if drop else "")


def number_text(value: float | str | None) -> str:
    """Return a number with three or four digits; infinities come as text from a passport."""
    if value is None:
        return ""
    number = float(value)
    if number == 0:
        return "0"
    return f"{number:.4g}" if 1e-3 <= abs(number) < 1e6 else f"{number:.1e}"


__all__ = ["metric_text", "port_command", "show_result", "size_text", "variant_row"]
