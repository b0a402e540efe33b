"""The hooks of lepton-acme. Nothing heavy is imported here, but inside each hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import ConvertRequest, ConvertResult, Model, OpenRequest


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Walk the one edge that info.py declares: pivot -> acme."""
    if (model.format, request.to_format) != ("pivot", "acme"):
        return None  # "not mine"; a failure is an exception
    from lepton_acme import _work

    return _work.convert(model, request, context)


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open an artifact of this target."""
    if model.format != "acme":
        return None
    from lepton_acme import _work

    return _work.AcmeSession(model.path)
