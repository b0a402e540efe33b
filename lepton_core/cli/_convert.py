"""``lepton convert``: one verb, its result in a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._types import PRECISION
from lepton_core.cli._verb import VerbWork, verb_options

if TYPE_CHECKING:
    from lepton_core.cli._app import App
    from lepton_core.types import Model


@command(
    "convert",
    examples="""
    lepton convert model.onnx --to onnxruntime --out built
    lepton convert digits.py:net --to onnxruntime --precision fp16 --out built
    lepton convert digits.py:net --to onnxruntime --format pivot --out pivot
    """,
)
@verb_options("lepton-converted")
@option("--precision", type=PRECISION, default="fp32", help="How the artifact is stored.")
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

    work = VerbWork(app, given)
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
    warnings = (*found.warnings, *([] if request.dynamic_batch else _still_open(made)))
    work.show(made, way=way, facts=found.facts, warnings=warnings)
    return 0


def _still_open(made: Model) -> list[str]:
    """Say so if the batch is open in a result that was asked to have a fixed one."""
    inputs = made.signature.inputs if made.signature is not None else ()
    named = [str(spec) for spec in inputs if spec.shape and not isinstance(spec.shape[0], int)]
    if not named:
        return []
    return [
        f"--static-batch left the batch open: {', '.join(named)}. It fixes what is exported from "
        "torch, and what LiteRT stores; export an ONNX file with a batch of a fixed size."
    ]


__all__ = ["convert_command"]
