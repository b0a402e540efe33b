"""Hook implementations of lepton-openvino; each imports its work when it is called."""

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


@hookimpl
def lepton_check(model: Model, request: CheckRequest, context: Context) -> CheckResult | None:
    """Judge a source from its inspection; see :func:`lepton_openvino._check.check`."""
    from lepton_openvino._check import check

    return check(model, request)


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Write the IR; see :func:`lepton_openvino._convert.convert`."""
    from lepton_openvino._convert import convert

    mine = model.format == "pivot" and request.to_format in ("", "openvino")
    return convert(model, request, context) if mine else None


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open a session; see :func:`lepton_openvino._session.open_session`."""
    from lepton_openvino._session import open_session

    mine = model.format in ("openvino", "pivot")
    return open_session(model, request, context) if mine else None
