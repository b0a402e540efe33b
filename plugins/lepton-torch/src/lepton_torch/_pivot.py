"""From an exported program to the pivot: torch's dynamo exporter, then lepton-onnx's freeze."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.artifacts import EXTERNAL_FILES
from lepton_core.errors import ConversionError, LeptonError, PluginDependencyError, SourceError
from lepton_core.files import digest_path
from lepton_core.installing import install_command
from lepton_core.origins import LOCATIONS
from lepton_core.types import ConvertResult, Model
from lepton_torch._archive import load_program
from lepton_torch._chatter import captured
from lepton_torch._disk import bytes_of, writing
from lepton_torch._divisors import write_divisors
from lepton_torch._facts import lineage_step, tools
from lepton_torch._materialise import check_options
from lepton_torch._operators import Missing, missing_operators, random_operators, refuse_state
from lepton_torch._usercode import describe_frame, parse_stack, pick_frame

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest
    from lepton_onnx.pivot import FreezeFacts
    from lepton_torch._program import Program

_EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of weights from which on the raw export keeps them in a file of their own."""
_TRAVELLING = (
    "source",
    "dynamic_batch",
    "batch_symbol",
    "symbols",
    "parameters",
    "labels",
    "preprocessing",
)
"""Facts of the program that stay true for the pivot."""


def export_pivot(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Translate an exported program into a frozen fp32 ONNX graph.

    Inputs and outputs keep the names of the program's contract. The opset asked for is used
    where the exporter can write it; what came out is read back from the file.

    Args:
        model: Of format ``torch.export``.
        request: ``opset`` is the one wanted.
        context: Where to write ``model.onnx`` (and ``model.onnx.data``).

    Returns:
        A model of format ``pivot``.

    Raises:
        SourceError: The program cannot be read or trusted.
        ConversionError: An operator has no ONNX translation; names it and the user's line.
        PluginDependencyError: onnxscript or lepton-onnx is not installed.
    """
    check_options(request, set())
    task = context.reporter.task("Export to ONNX")
    program = load_program(model.path)
    refuse_state(program.exported)
    write_divisors(program.exported)
    context.checkpoint()
    randoms = random_operators(program.exported)
    path = context.workdir / "model.onnx"
    with tempfile.TemporaryDirectory(dir=context.workdir, prefix=".export-") as scratch:
        raw = Path(scratch) / "raw.onnx"
        _translate(program, request.opset, raw)
        context.checkpoint()
        frozen = _freeze(raw, path, program, request.opset)
    task.finish()
    facts: dict[str, Any] = {
        **frozen.as_dict(),
        "exporter": f"torch.onnx (dynamo) {torch.__version__.split('+')[0]}",
        "opset_asked": request.opset,
    }
    warnings = [f"{name} draws random numbers; outputs differ from run to run" for name in randoms]
    if frozen.opset != request.opset:
        reason = f": {frozen.opset_note}" if frozen.opset_note else ""
        warnings.append(f"The pivot has opset {frozen.opset} instead of {request.opset}{reason}.")
    notes = {**dict(model.metadata), **program.notes}
    metadata = {
        **model.metadata,
        **{k: notes[k] for k in _TRAVELLING if k in notes},
        "opset": frozen.opset,
        "exporter": facts["exporter"],
        "warnings": [*notes.get("warnings", ()), *warnings],
    }
    metadata.pop("artifacts", None)
    if frozen.locations:
        metadata[LOCATIONS] = dict(frozen.locations)
    if frozen.external_files:  # they travel with the model
        metadata[EXTERNAL_FILES] = list(frozen.external_files)
    result = Model(
        format="pivot",
        path=str(path),
        signature=frozen.signature,
        digest=digest_path(path),
        lineage=(
            *model.lineage,
            lineage_step("convert torch.export -> pivot", model.digest, request),
        ),
        metadata=metadata,
    )
    return ConvertResult(result, facts={**facts, "tools": tools()}, warnings=tuple(warnings))


def _freeze(raw: Path, path: Path, program: Program, opset: int) -> FreezeFacts:
    try:
        from lepton_onnx.pivot import freeze
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-CONV-107",
            "The pivot is written by lepton-onnx, which cannot be imported",
            cause=str(error),
            remedy=install_command("lepton-onnx"),
        ) from error
    try:
        frozen = freeze(raw, path, opset=opset)
    except SourceError as error:  # the source is torch's own export, not a file of the user's
        raise ConversionError(
            "LPT-CONV-106",
            "torch's ONNX exporter wrote a graph that is not valid",
            cause=f"{error.message}. {error.cause}",
            remedy="The cause names the node, after the module that it stands in: write that with "
            "other operators, or settings that ONNX has, too.",
        ) from error
    found = [s.name for s in (*frozen.signature.inputs, *frozen.signature.outputs)]
    wanted = [s.name for s in (*program.signature.inputs, *program.signature.outputs)]
    if found != wanted:
        raise ConversionError(
            "LPT-CONV-106",
            "The ONNX graph has other inputs and outputs than the program",
            cause=f"Found {', '.join(found)}; expected {', '.join(wanted)}.",
            remedy="Use every input in forward and return each tensor once.",
        )
    return frozen


def _axis_names(program: Program) -> dict[str, dict[int, str] | None]:
    """Return the symbols by input, in the exporter's form."""
    return {
        spec.name: {
            i: d for i, d in enumerate(spec.shape) if isinstance(d, str) and d.isidentifier()
        }
        or None
        for spec in program.signature.inputs
    }


def _translate(program: Program, opset: int, raw: Path) -> None:
    """Run torch's exporter and save its model, weights beside it when they are large.

    Raises:
        ConversionError: It failed; names the operator and the user's line.
    """
    import importlib.util

    if importlib.util.find_spec("onnxscript") is None:
        raise PluginDependencyError(
            "LPT-CONV-107",
            "torch's ONNX exporter needs onnxscript, which is not installed",
            remedy=install_command("lepton-torch"),
        )
    signature = program.signature
    try:
        with captured():
            onnx_program = torch.onnx.export(
                program.exported,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[s.name for s in signature.inputs],
                output_names=[s.name for s in signature.outputs],
                dynamic_shapes=_axis_names(program),
            )
    except LeptonError:
        raise
    except Exception as error:
        raise _untranslatable(program, opset, error) from error
    if onnx_program is None:  # only the older exporter returns nothing
        raise ConversionError(
            "LPT-CONV-106",
            "torch's ONNX exporter returned nothing",
            remedy="Report this with the model's source and the version of torch.",
        )
    held = (program.exported.state_dict, program.exported.constants)
    size = bytes_of(value for values in held for value in values.values())
    with writing(raw, size), captured():
        onnx_program.save(str(raw), external_data=size > _EXTERNAL_ABOVE)


def _untranslatable(program: Program, opset: int, error: Exception) -> ConversionError:
    """Explain the exporter's failure: which operators, from which of the user's lines."""
    gaps = missing_operators(program.exported, opset) or []
    unique = list(dict.fromkeys(gaps))
    if unique:
        return _no_translation(unique, opset)
    root_cause: BaseException = error
    while root_cause.__cause__ is not None:
        root_cause = root_cause.__cause__
    frame = pick_frame(parse_stack(str(error)))
    place = describe_frame(frame)
    return ConversionError(
        "LPT-CONV-106",
        "torch's ONNX exporter failed on this program" + (f" at {place}" if place else ""),
        cause=f"{type(root_cause).__name__}: {str(root_cause).strip().splitlines()[0][:400]}"
        if str(root_cause).strip()
        else type(root_cause).__name__,
        remedy="Rewrite the line with other operators; `lepton check` lists those in use.",
        details={"where": place},
    )


def _no_translation(gaps: list[Missing], opset: int) -> ConversionError:
    first = gaps[0]
    listed = "; ".join(
        f"{gap.operator}"
        + (f", which becomes {gap.lowered}," if gap.lowered != gap.operator else "")
        + (f" at {gap.where}" if gap.where else "")
        for gap in gaps[:5]
    )
    return ConversionError(
        "LPT-CONV-103",
        f"{first.operator} has no translation to ONNX"
        + (f" ({first.where})" if first.where else ""),
        cause=f"Not known to the exporter for opset {opset}: {listed}.",
        remedy="Compute it from other operators, or move it out of forward, before or after "
        "the model.",
        details={
            "operators": [gap.operator for gap in gaps],
            "where": first.where,
        },
    )
