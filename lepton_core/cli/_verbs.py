"""``lepton adapt``, ``convert`` and ``optimize``: one verb, its result in a directory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._prune import BUDGET, prune_request, receipt_lines
from lepton_core.cli._search_options import cache_option, search_options
from lepton_core.cli._types import (
    DURATION,
    SHARE_OR_SIZE,
    SIZE,
    FiniteType,
    TargetType,
    pairs,
    shapes,
    split_list,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_core.cli._app import App
    from lepton_core.context import Context
    from lepton_core.types import Model, Target

_RESULT, _LIMITS, _PRUNING = "Result", "Limits", "Pruning"


def _options(out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add what the three commands share."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in (
            option("--mem-limit", group=_LIMITS, type=SIZE, help="Memory for each worker."),
            option("--time-limit", group=_LIMITS, type=DURATION, help="Time for each job."),
            option("--seed", group=_LIMITS, type=int, default=0, help="Seed of all randomness."),
            option(
                "--force",
                group=_RESULT,
                is_flag=True,
                show_default=False,
                help="Replace what is at --out even if lepton did not write it.",
            ),
            option(
                "--out",
                group=_RESULT,
                default=out,
                metavar="DIR",
                type=click.Path(path_type=Path),
                help="Directory of the result.",
            ),
            option(
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Setting of the plugin that does it; may be repeated.",
            ),
            option(
                "--to",
                "target",
                required=True,
                metavar="TARGET",
                type=TargetType(),
                help="Target it is for.",
            ),
            click.argument("model"),
        ):
            function = add(function)
        return function

    return decorate


class _Work:
    """One run of a verb: where it writes, and what it has to work on.

    Args:
        app: Output.
        given: Options that the commands share; they are taken out.
    """

    def __init__(self, app: App, given: dict[str, Any]) -> None:
        from lepton_core.types import Limits, Target

        self.app = app
        self.hooks = app.hooks()
        self.out: Path = given.pop("out")
        self.force: bool = given.pop("force")
        self.seed: int = given.pop("seed")
        self.limits = Limits(given.pop("time_limit"), given.pop("mem_limit"))
        self.target: Target = Target.parse(given.pop("target"))
        self.options = pairs(given.pop("options"), "--option")
        self.hooks.registry.target(self.target.id)

    @contextlib.contextmanager
    def stage(self) -> Iterator[tuple[Path, Context, Context]]:
        """Yield the stage, a context that writes into it, and one for scratch files."""
        from lepton_core.context import Context
        from lepton_core.staging import staged

        with self.app.reporter() as reporter, staged(self.out, force=self.force) as stage:
            context = Context(stage, self.seed, reporter, self.limits)
            with tempfile.TemporaryDirectory(prefix=".scratch-", dir=stage) as scratch:
                yield stage, context, replace(context, workdir=Path(scratch))

    def load(self, text: str, context: Context) -> Model:
        """Return what the user named: something built, or a source that is read first."""
        from lepton_core import api
        from lepton_core.built import find_built

        built = find_built(text)
        return api.load(text, context=context) if built is None else built.model

    def close(self, stage: Path, model: Model, kind: str, precision: str) -> Model:
        """Write the marker and return the model at its final place."""
        from lepton_core.built import taken_in, write_marker

        model = taken_in(model, stage)
        return write_marker(
            stage, self.out, model, kind=kind, target=str(self.target), precision=precision
        )

    def show(self, model: Model, **more: Any) -> None:  # noqa: ANN401 - plain data
        """Print the result."""
        from lepton_core.artifacts import artifact_size
        from lepton_core.cli._port import size_text
        from lepton_core.codec import to_data

        size = artifact_size(model)
        if self.app.json:
            data = {"ok": True, "model": to_data(model), "out": str(self.out.absolute())}
            self.app.emit({**data, "size_bytes": size, **to_data(more)})
            return
        self.app.line(f"{model.path}  ({model.format}, {size_text(size)})")
        if model.signature is not None:
            self.app.line(f"  {model.signature}")
        for name, value in more.items():
            if name == "warnings" or (name == "facts" and not self.app.verbose):
                continue
            for line in [value] if isinstance(value, str) else value_lines(value):
                if line:
                    self.app.line(f"  {name}: {line}")
        for warning in more.get("warnings", ()):
            self.app.warn(warning)


def value_lines(value: Any) -> list[str]:  # noqa: ANN401 - plain data
    """Return a list as lines, and the short facts of a mapping as one line; JSON has them all."""
    if isinstance(value, Mapping):
        short = {k: v for k, v in value.items() if isinstance(v, str | int | float) and v != ""}
        return [", ".join(f"{key} = {inner}" for key, inner in short.items())]
    return [str(inner) for inner in value or ()]


@command(
    "convert",
    examples="""
    lepton convert model.onnx --to onnxruntime --out built
    lepton convert digits.py:net --to onnxruntime --precision fp16 --out built
    lepton convert digits.py:net --to onnxruntime --format pivot --out pivot
    """,
)
@_options("lepton-converted")
@option("--precision", default="fp32", help="How the artifact is stored.")
@option(
    "--format",
    "to_format",
    default="",
    show_default=False,
    metavar="FORMAT",
    help="Stop at this format on the way; by default the target's artifact.",
)
@option("--opset", type=click.IntRange(min=7), default=21, help="ONNX opset of the pivot.")
@option("--dynamic-batch/--static-batch", default=True, help="Whether the batch size stays open.")
@option("--recipe", metavar="FILE", type=click.Path(exists=True), help="Compression to lower.")
def convert_command(app: App, model: str, **given: Any) -> int:  # noqa: ANN401
    """Convert MODEL to a target's format, without a proof.

    Walks the planned path of conversions. `lepton port` also compares the result with the
    source.
    """
    from lepton_core.conversion import convert_into
    from lepton_core.types import ConvertRequest

    work = _Work(app, given)
    request = ConvertRequest(
        work.target.id, device=work.target.device, options=work.options, **given
    )
    with work.stage() as (stage, context, scratch):
        source = work.load(model, scratch)
        walked = convert_into(work.hooks, source, request, context, scratch)
        found, steps = walked.result, walked.steps
        made = work.close(stage, found.model, "convert", request.precision)
    way = " -> ".join(
        (steps[0].edge.source if steps else source.format, *(step.edge.result for step in steps))
    )
    work.show(made, way=way, facts=found.facts, warnings=found.warnings)
    return 0


@command(
    "adapt",
    examples="""
    lepton adapt digits.py:net --to openvino --shape batch=1 --out adapted
    lepton adapt model.pt2 --to onnxruntime --rewrite fold-batch-norm --out adapted
    lepton adapt digits.py:net --to onnxruntime --prune macs=0.5 --data train.npz --out pruned
    # the result is a model like any other: lepton port adapted --to openvino
    """,
)
@_options("lepton-adapted")
@option(
    "--rewrite",
    "rewrites",
    multiple=True,
    metavar="NAME[,NAME]",
    help="Rewrites to do, needed or not, and no others; `lepton rewrites` lists them.",
)
@option(
    "--shape",
    "sizes",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a symbolic dimension, or bounds (batch=1..8); may be repeated.",
)
@option(
    "--prune",
    group=_PRUNING,
    type=BUDGET,
    metavar="BUDGET",
    help="Remove channels until this holds: macs=0.5, parameters=0.5, latency=0.7, latency=2.5ms.",
)
@option(
    "--data",
    group=_PRUNING,
    metavar="SAMPLES",
    help="Real inputs to prune with; a part of them is held out and measured on.",
)
@option(
    "--prune-by",
    group=_PRUNING,
    type=click.Choice(["taylor", "activation", "l2", "l1"]),
    help="Importance of channels; taylor with samples and l2 without.",
)
@option(
    "--prune-multiple",
    group=_PRUNING,
    type=click.IntRange(min=1),
    metavar="N",
    help="Widths become multiples of this; by default what the target likes.",
)
@option(
    "--prune-keep",
    group=_PRUNING,
    multiple=True,
    metavar="NAME[,NAME]",
    help="Layers or modules that keep their width.",
)
@option(
    "--prune-recipe",
    group=_PRUNING,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Remove what this pruning.json says, in the place of a budget.",
)
@option(
    "--rounds", group=_PRUNING, type=click.IntRange(1, 50), default=3, help="Rounds of pruning."
)
@option(
    "--recover-epochs",
    group=_PRUNING,
    type=click.IntRange(min=0),
    default=60,
    help="Passes over the samples that train what is left, all rounds together.",
)
@option(
    "--recover-seconds",
    group=_PRUNING,
    type=DURATION,
    metavar="DURATION",
    help="Begin no pass after this time.",
)
@option(
    "--recover-rows",
    group=_PRUNING,
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples to train on; by default as many as a calibration takes.",
)
@option(
    "--max-drop",
    group=_PRUNING,
    type=FiniteType(),
    metavar="X",
    help="Largest accepted loss of a pruned model, in the metric's own unit.",
)
def adapt_command(
    app: App,
    model: str,
    *,
    rewrites: tuple[str, ...],
    sizes: tuple[str, ...],
    **given: Any,  # noqa: ANN401
) -> int:
    """Rewrite MODEL to meet a target's declared constraints, and prune it if asked to.

    The plugin that reads MODEL's format does it, and runs the result against MODEL before it is
    written. `lepton check` says which rewrites a target needs; -v shows what else was considered.
    """
    from lepton_core.types import AdaptRequest

    fixed, bounds = shapes(sizes)
    pruning, data = prune_request(given), given.pop("data")
    work = _Work(app, given)
    request = AdaptRequest(
        work.target.id, split_list(rewrites), fixed, work.options, bounds, prune=pruning
    )
    with work.stage() as (stage, context, scratch):
        source = work.load(model, scratch)
        if data is not None:
            request = replace(request, samples=prepared(data, source, scratch.workdir))
        result = work.hooks.adapt(source, request, context)
        adapted = work.close(stage, result.model, "adapt", "")
    if app.json:
        shown = ("changes", "considered", "facts", "warnings")
        work.show(adapted, **{k: getattr(result, k) for k in shown})
        return 0
    left = [f"{one.rewrite}: {line}" for one in result.considered for line in one.left]
    skipped = [one for one in result.considered if not one.changes and not one.left]
    work.show(
        adapted,
        changes=result.changes or ("none needed",),
        left=left,
        receipt=receipt_lines(result.facts.get("pruning")),
        skipped=[f"{one.rewrite}: {one.why}" for one in skipped] if app.verbose else (),
        warnings=result.warnings,
    )
    return 0


@command(
    "optimize",
    examples="""
    lepton optimize model.onnx --to onnxruntime --data samples.npz --max-drop 0.005
    # a precision for each weight: as small as half a point of accuracy allows
    lepton optimize model.onnx --to openvino --precision mixed --data samples.npz --max-drop 0.005
    # as accurate as 30 % of the size allow
    lepton optimize model.onnx --to onnxruntime --data samples.npz --max-size 30%
    """,
)
@_options("lepton-optimized")
@option("--engine", default="compress", help="Engine that does it.")
@option(
    "--precision",
    metavar="PRECISION",
    help="Precision to reach: int8, int16, int8-weight, int4, mixed (one for each weight), auto; "
    "int8 if not given, mixed with --max-size.",
)
@option(
    "--max-drop",
    type=FiniteType(),
    metavar="X",
    help="Largest accepted loss in the metric's own unit.",
)
@option(
    "--max-size",
    type=SHARE_OR_SIZE,
    metavar="SIZE",
    help="Largest accepted size: a share of the uncompressed one (0.3, 30%) or bytes (150K, 2M).",
)
@option("--data", metavar="SAMPLES", help="Real inputs for calibration.")
@option(
    "--slices",
    metavar="FILE",
    type=click.Path(exists=True),
    help="An .npy file with the name of each row's slice; the classes of the labels by default.",
)
@cache_option
@option(
    "--recipe",
    metavar="FILE",
    type=click.Path(exists=True),
    help="Recipe to reproduce instead of searching.",
)
def optimize_command(
    app: App,
    model: str,
    *,
    data: str | None,
    slices: str | None,
    cache: Path | None,
    **given: Any,  # noqa: ANN401
) -> int:
    """Compress MODEL under a budget.

    Without --data nothing is calibrated on noise: only what needs no samples is done. With
    --precision mixed, each weight gets the precision that it bears: measured on rows that ranges
    did not see, and verified on rows that the search did not see. search.html shows it.
    """
    from lepton_core._recipe_step import losses
    from lepton_core.cli._sensitivity import write_page
    from lepton_core.types import OptimizeRequest

    given["precision"] = given["precision"] or ("mixed" if given["max_size"] else "int8")
    work = _Work(app, given)
    if given["precision"] == "mixed":
        work.options = {**search_options(cache, slices), **work.options}
    work.hooks.engine_owner("optimize", given["engine"])
    with work.stage() as (stage, context, scratch):
        source = work.load(model, scratch)
        samples = None if data is None else prepared(data, source, scratch.workdir)
        request = OptimizeRequest(work.target.id, samples=samples, options=work.options, **given)
        result = work.hooks.optimize(source, request, context)
        write_page(stage, source, result)
        model_there = work.close(stage, result.model, "optimize", request.precision)
        recipe = result.recipe and str(work.out.absolute() / Path(result.recipe).relative_to(stage))
    if app.json:
        more: dict[str, Any] = {}
    else:
        more = dict(zip(("diagnosis", "recovered"), losses(result.facts), strict=True))
    work.show(
        model_there, recipe=recipe or "", why=result.why, **more, facts=result.facts,
        warnings=result.warnings,
    )  # fmt: skip
    return 0


def prepared(data: str, model: Model, scratch: Path) -> str:
    """Load samples, fit them to the model, and write them as one file for the engine."""
    from lepton_core.cli._arrays import save_samples
    from lepton_core.samples import load_samples, match

    samples = load_samples(data)
    if model.signature is not None:
        samples = match(samples, model.signature)
    return save_samples(samples, scratch / "samples.npz")


__all__ = ["adapt_command", "convert_command", "optimize_command", "prepared"]
