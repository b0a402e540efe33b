"""Hook implementations of lepton-onnx; each imports its work when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import (
        ConvertRequest,
        ConvertResult,
        InspectRequest,
        InspectResult,
        Model,
        OpenRequest,
    )


@hookimpl
def lepton_inspect(model: Model, request: InspectRequest, context: Context) -> InspectResult | None:
    """Describe an ONNX file; see :func:`lepton_onnx._inspect.inspect`."""
    from lepton_onnx._inspect import inspect

    return inspect(model, request, context) if model.format == "onnx" else None


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Freeze an ONNX file; see :func:`lepton_onnx._convert.to_pivot`."""
    from lepton_onnx._convert import to_pivot

    mine = (model.format, request.to_format) == ("onnx", "pivot")
    return to_pivot(model, request, context) if mine else None


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open on the reference evaluator; see :func:`lepton_onnx._reference.open_reference`."""
    from lepton_onnx._reference import open_reference

    return open_reference(model, request, context) if model.format in ("onnx", "pivot") else None
