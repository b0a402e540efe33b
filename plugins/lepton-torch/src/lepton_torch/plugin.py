"""The hooks of lepton-torch; each imports its work module on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core import hookimpl
from lepton_torch.info import INFO

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import (
        AdaptRequest,
        AdaptResult,
        CheckRequest,
        CheckResult,
        ConvertRequest,
        ConvertResult,
        InspectRequest,
        InspectResult,
        Model,
        OpenRequest,
    )

__all__ = [
    "INFO",
    "lepton_adapt",
    "lepton_check",
    "lepton_convert",
    "lepton_inspect",
    "lepton_open",
]


@hookimpl
def lepton_inspect(model: Model, request: InspectRequest, context: Context) -> InspectResult | None:
    """Export a source without converting it, and list what it uses."""
    from lepton_torch._inspect import inspect_source

    return inspect_source(model, request, context)


@hookimpl
def lepton_check(model: Model, request: CheckRequest) -> CheckResult | None:
    """Judge from the inspection alone; an exported program runs on torch as it is."""
    from lepton_torch._check import check

    return check(model, request)


@hookimpl
def lepton_adapt(model: Model, request: AdaptRequest, context: Context) -> AdaptResult | None:
    """Rewrite a source or an exported program for a target, and prove the result."""
    from lepton_torch._adapt import adapt

    return adapt(model, request, context)


@hookimpl
def lepton_convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Materialise a live source, or export a program to the pivot."""
    from lepton_torch._convert import convert

    return convert(model, request, context)


@hookimpl
def lepton_open(model: Model, request: OpenRequest, context: Context) -> Session | None:
    """Open an exported program on torch."""
    from lepton_torch._session import open_session

    return open_session(model, request, context)
