"""Hook implementations of lepton-tflite; each imports its work when it is called."""

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
        InspectRequest,
        InspectResult,
        Model,
        OpenRequest,
    )


@hookimpl
def lepton_inspect(model: Model, request: InspectRequest, context: Context) -> InspectResult | None:
    """Read a .tflite file; see :func:`lepton_tflite._inspect.inspect`."""
    from lepton_tflite._inspect import inspect

    return inspect(model, request) if model.format == "tflite" else None


@hookimpl
def lepton_check(model: Model, request: CheckRequest, context: Context) -> CheckResult | None:
    """Judge a source from its inspection; see :func:`lepton_tflite._check.check`."""
    from lepton_tflite._check import check

    return check(model, request)


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Write a .tflite file; see :func:`lepton_tflite._convert.convert`."""
    from lepton_tflite._convert import convert

    mine = model.format == "pivot" and request.to_format in ("", "tflite")
    return convert(model, request, context) if mine else None


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open a session; see :func:`lepton_tflite._session.open_session`."""
    from lepton_tflite._session import open_session

    return open_session(model, request, context) if model.format == "tflite" else None
