"""``lepton_convert`` for the edge onnx -> pivot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, LeptonError
from lepton_core.types import ConvertRequest, ConvertResult, LineageStep, Model
from lepton_onnx import __version__
from lepton_onnx._facts import digest
from lepton_onnx._freeze import FreezeFacts, freeze

if TYPE_CHECKING:
    from lepton_core.context import Context

FILE_NAME = "pivot.onnx"


def to_pivot(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Freeze an ONNX file into ``pivot.onnx`` under ``context.workdir``.

    Raises:
        SourceError: The file cannot be read, trusted, or is not valid.
        ConversionError: LPT-CONV-201 or 202.
        StorageError: The result cannot be written.
    """
    source = Path(model.path)
    parent = model.digest or digest(source)
    context.checkpoint()
    out = context.workdir / FILE_NAME
    try:
        facts = freeze(source, out, opset=request.opset)
    except (LeptonError, OSError):
        raise
    except Exception as error:
        raise ConversionError(
            "LPT-CONV-202",
            f"{source} could not be frozen",
            cause=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
            remedy="Check the file with `lepton check`; if it is sound, report this as a bug.",
        ) from error
    step = LineageStep(
        step="convert onnx -> pivot",
        owner=f"lepton-onnx {__version__}",
        parent=parent,
        request={"opset": request.opset},
        tools=versions_of("onnx", "protobuf"),
    )
    result = Model(
        format="pivot",
        path=str(out),
        signature=facts.signature,
        digest=digest(out),
        lineage=(*model.lineage, step),
        metadata={**model.metadata, **pivot_metadata(facts)},
    )
    return ConvertResult(result, facts=facts.as_dict(), warnings=_warnings(facts, request))


def pivot_metadata(facts: FreezeFacts) -> dict[str, object]:
    """Return what a pivot's :class:`~lepton_core.types.Model` records about its file."""
    metadata: dict[str, object] = {"opset": facts.opset, "ir_version": facts.ir_version}
    if facts.external_files:
        metadata["external_files"] = list(facts.external_files)
    return metadata


def _warnings(facts: FreezeFacts, request: ConvertRequest) -> tuple[str, ...]:
    found = []
    if facts.opset != request.opset:
        found.append(f"The pivot has opset {facts.opset}, not {request.opset}: {facts.opset_note}.")
    half = [kind for kind in ("float16", "bfloat16") if facts.weights.get(kind)]
    if half:
        found.append(
            f"The source stores weights as {' and '.join(half)}; the pivot keeps them so, and "
            "they cannot get back what was lost."
        )
    return tuple(found)


__all__ = ["FILE_NAME", "pivot_metadata", "to_pivot"]
