"""``lepton_convert`` for the edge onnx -> pivot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.artifacts import EXTERNAL_FILES
from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, LeptonError
from lepton_core.files import digest_path
from lepton_core.origins import LOCATIONS
from lepton_core.types import ConvertRequest, ConvertResult, LineageStep, Model
from lepton_onnx import __version__
from lepton_onnx._facts import digest
from lepton_onnx._freeze import FreezeFacts, freeze

if TYPE_CHECKING:
    from lepton_core.context import Context

FILE_NAME = "pivot.onnx"


def to_pivot(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Freeze an ONNX file into ``pivot.onnx`` under ``context.workdir``.

    Options, for a file that is a pivot already and keeps its names: ``taps``, values inside that
    become the outputs as well, and ``cuts``, values at which the graph is cut
    (:mod:`lepton_onnx._taps`). The facts then hold ``names``, all names in the result.

    Raises:
        SourceError: The file cannot be read, trusted, or is not valid.
        ConversionError: LPT-CONV-201, 202, or 204, there is no such value.
        StorageError: The result cannot be written.
    """
    source = Path(model.path)
    parent = model.digest or digest(source)
    context.checkpoint()
    out = context.workdir / FILE_NAME
    if "taps" in request.options:
        return _tapped(model, request, out)
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
        digest=digest(out) if facts.external_files else digest_path(out),
        lineage=(*model.lineage, step),
        metadata={
            **{k: v for k, v in model.metadata.items() if k != EXTERNAL_FILES},  # the source's
            **pivot_metadata(facts),
        },
    )
    return ConvertResult(result, facts=facts.as_dict(), warnings=_warnings(facts, request))


def _tapped(model: Model, request: ConvertRequest, out: Path) -> ConvertResult:
    from lepton_onnx import _taps
    from lepton_onnx._load import load
    from lepton_onnx._save import save
    from lepton_onnx._signature import signature

    taps, cuts = (tuple(request.options.get(name, ())) for name in ("taps", "cuts"))
    proto = load(Path(model.path))
    proto = _taps.cut(proto, taps, cuts) if cuts else _taps.tap(proto, taps)
    save(proto, out)
    made = Model(
        "pivot", str(out), signature=signature(out), digest=digest(out), metadata=model.metadata
    )
    return ConvertResult(made, facts={"names": sorted(_taps.names_in(proto))})


def pivot_metadata(facts: FreezeFacts) -> dict[str, object]:
    """Return what a pivot's :class:`~lepton_core.types.Model` records about its file."""
    metadata: dict[str, object] = {"opset": facts.opset, "ir_version": facts.ir_version}
    if facts.external_files:
        metadata[EXTERNAL_FILES] = list(facts.external_files)
    if facts.locations:
        metadata[LOCATIONS] = dict(facts.locations)
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
