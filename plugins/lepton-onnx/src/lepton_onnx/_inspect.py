"""``lepton_inspect`` for ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.artifacts import EXTERNAL_FILES
from lepton_core.types import InspectRequest, InspectResult, Model
from lepton_onnx._external import verify_external
from lepton_onnx._facts import digest
from lepton_onnx._freeze import graph_facts
from lepton_onnx._load import check
from lepton_onnx._operators import inventory
from lepton_onnx._signature import signature
from lepton_onnx._taps import values_of
from lepton_onnx._unsigned import unsigned_constants

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.context import Context


def inspect(model: Model, request: InspectRequest, context: Context) -> InspectResult:
    """Read, check and describe the ONNX file that *model* names.

    Raises:
        SourceError: LPT-SRC-2xx, the file cannot be read, trusted, or is not valid.
    """
    path = Path(model.path)
    proto = check(path)
    context.checkpoint()
    facts = graph_facts(proto)
    parameters = facts.pop("parameters")
    if unsigned := unsigned_constants(proto):
        facts["unsigned_constants"] = unsigned
    facts["producer"] = f"{proto.producer_name} {proto.producer_version}".strip()
    beside = [file.relative_to(path.parent).as_posix() for file in verify_external(proto, path)]
    read = model.evolve(
        signature=signature(proto),
        digest=digest(path, proto=proto),
        metadata={
            **user_metadata(proto),
            **model.metadata,
            "opset": facts["opset"],
            **({EXTERNAL_FILES: beside} if beside else {}),
        },
    )
    uses = inventory(path) if request.operators else ()
    problems = tuple(
        f"{use.name} at {use.where} is {use.note}; only a runtime that knows it can run it"
        for use in uses
        if use.convertible is None
    )
    return InspectResult(
        model=read,
        operators=uses,
        domain="onnx",
        parameters=parameters,
        facts=facts,
        problems=problems,
        values=values_of(proto) if request.values else (),
    )


def user_metadata(proto: ModelProto) -> dict[str, str]:
    """Return what the user wrote into a model's metadata (labels and the like)."""
    own = ("lepton.", "pkg.")
    pairs = ((p.key, p.value) for p in proto.metadata_props)
    texts = ((k, v) for k, v in pairs if isinstance(k, str) and isinstance(v, str))
    return {key: value for key, value in texts if not key.startswith(own)}
