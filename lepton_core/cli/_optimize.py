"""``lepton optimize``: one verb, its result in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lepton_core.cli._command import command, option
from lepton_core.cli._search_options import cache_option, search_options
from lepton_core.cli._sparse_options import (
    SPARSE_OPTIONS,
    default_precision,
    sparse_options,
    take_sparse_options,
)
from lepton_core.cli._types import COMPRESSED, SHARE_OR_SIZE, DurationType, FiniteType
from lepton_core.cli._verb import VerbWork, prepared, verb_options
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App


@command(
    "optimize",
    examples="""
    lepton optimize model.onnx --to onnxruntime --data samples.npz --max-drop 0.005
    # a precision for each weight: as small as half a point of accuracy allows
    lepton optimize model.onnx --to openvino --precision mixed --data samples.npz --max-drop 0.005
    # as accurate as 30 % of the size allow
    lepton optimize model.onnx --to onnxruntime --data samples.npz --max-size 30%
    # half of the weights 0, the others int8; or float weights that share 16 values
    lepton optimize model.onnx --to onnxruntime --precision int8 --sparsity 50% --data samples.npz
    lepton optimize model.onnx --to openvino --palette 4 --data samples.npz --max-drop 0.005
    # as many zeros as a point of accuracy allows
    lepton optimize model.onnx --to coreml --precision sparse --data samples.npz --max-drop 0.01
    """,
)
@verb_options("lepton-optimized")
@option("--engine", default="compress", help="Engine that does it.")
@option(
    "--precision",
    type=COMPRESSED,
    metavar="PRECISION",
    help="Precision to reach: int8, int16, int8-weight, int4, mixed (one for each weight), sparse, "
    "palette, auto; int8 if not given, mixed with --max-size, else palette with --palette, sparse "
    "with --sparsity or --pattern.",
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
@option(
    "--timing",
    "timing_seconds",
    type=DurationType(zero=True),
    default="0.25s",
    help="Time to spend on timing the result in turns with the float model; 0 leaves out what it "
    "gains.",
)
@sparse_options("with an integer precision, weights are quantized after it")
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

    if given["recipe"] is not None:
        _refuse_beside_recipe()
    sparse = take_sparse_options(given)
    usual = "mixed" if given["max_size"] else default_precision(sparse) or "int8"
    given["precision"] = given["precision"] or ("" if given["recipe"] else usual)
    work = VerbWork(app, given)
    if "recipe_only" in work.options:
        raise UsageError(
            "LPT-USE-113",
            "`lepton optimize` always lowers what it makes; recipe_only is an option of the hook",
            remedy="Leave it out: recipe.json stands beside the result.",
        )
    if given["precision"] != "mixed" and not _is_given("cache"):
        cache = None  # nothing is kept of what is not searched
    work.options = {**search_options(cache, slices), **sparse, **work.options}
    work.hooks.engine_owner("optimize", given["engine"])
    with work.stage() as (stage, context, scratch):
        source = work.load(model, scratch)
        samples, notes = prepared(data, source, scratch.workdir)
        request = OptimizeRequest(
            work.target.id, samples=samples, options=work.options, device=work.target.device,
            **given,
        )  # fmt: skip
        result = work.hooks.optimize(source, request, context)
        write_page(stage, source, result)
        model_there = work.close(stage, result.model, "optimize", request.precision)
        recipe = result.recipe and str(work.out.absolute() / Path(result.recipe).relative_to(stage))
    if app.json:
        more: dict[str, Any] = {}
    else:
        more = {"gain": (result.facts.get("gain") or {}).get("text", "")}
        if (forward := result.facts.get("forward") or {}).get("trials"):
            more["forward passes"] = forward_text(forward)
        more |= zip(("diagnosis", "recovered"), losses(result.facts), strict=True)
    work.show(
        model_there, recipe=recipe or "", why=result.why, **more, facts=result.facts,
        warnings=(*notes, *result.warnings),
    )  # fmt: skip
    return 0


def forward_text(forward: Mapping[str, Any]) -> str:
    """Say which runtime ran the forward passes, and what others took for a row."""
    timed = [t for t in forward["trials"] if "seconds_per_row" in t]
    words = [f"{t['runtime']} {1000 * t['seconds_per_row']:.3g} ms a row" for t in timed]
    failed = [f"{t['runtime']} does not run it" for t in forward["trials"] if "problem" in t]
    return f"{forward['runtime']} ({', '.join(words + failed)})"


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def _refuse_beside_recipe() -> None:
    """Refuse what a recipe that is lowered as it is would not heed.

    Raises:
        UsageError: LPT-USE-112.
    """
    names = ("precision", "max_drop", "max_size", "data", "slices", "cache", *SPARSE_OPTIONS)
    said = [f"--{name.replace('_', '-')}" for name in names if _is_given(name)]
    if said:
        raise UsageError(
            "LPT-USE-112",
            f"--recipe is given together with {', '.join(said)}",
            cause="a recipe is lowered as it is; nothing is calibrated, chosen or checked",
            remedy="Leave --recipe out to search, or the others to lower it; `lepton port` and "
            "`lepton verify` measure what came out.",
        )


__all__ = ["optimize_command"]
