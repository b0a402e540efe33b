"""Hook implementation of lepton-compress; it imports its work when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import Model, OptimizeRequest, OptimizeResult


@hookimpl
def lepton_optimize(
    model: Model, request: OptimizeRequest, context: Context
) -> OptimizeResult | None:
    """Compress a model; see :func:`lepton_compress._optimize.optimize`."""
    from lepton_compress._optimize import optimize

    return optimize(model, request, context)
