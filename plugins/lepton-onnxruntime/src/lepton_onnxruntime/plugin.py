"""Hook implementations of lepton-onnxruntime; each imports its work when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import (
        CheckRequest,
        CheckResult,
        ConvertRequest,
        ConvertResult,
        Model,
        OpenRequest,
    )

_OPENS = ("onnxruntime", "pivot", "onnx")


@hookimpl
def lepton_check(model: Model, request: CheckRequest, context: Context) -> CheckResult | None:
    """Judge a source from its inspection; see :func:`lepton_onnxruntime._check.check`."""
    from lepton_onnxruntime._check import check

    return check(model, request)


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Write the artifact; see :func:`lepton_onnxruntime._convert.convert`."""
    from lepton_onnxruntime._convert import convert

    mine = model.format == "pivot" and request.to_format in ("", "onnxruntime")
    return convert(model, request, context) if mine else None


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open a session; see :func:`lepton_onnxruntime._session.open_session`."""
    from lepton_onnxruntime._session import open_session

    return open_session(model, request, context) if model.format in _OPENS else None
