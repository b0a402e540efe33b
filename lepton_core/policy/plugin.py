"""The hook of the policy; a vendor's policy is a plugin of the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import AdjustRequest, AdjustResult, Model


@hookimpl
def lepton_adjust(model: Model, request: AdjustRequest, context: Context) -> AdjustResult:
    """Plan a dispatch table from what was observed; changes nothing itself."""
    from lepton_core.policy._plan import plan

    return plan(request)
