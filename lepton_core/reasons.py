"""Sentences for ``lepton_check`` that do not depend on the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_core.types import InspectResult


def without_a_way(found: InspectResult) -> list[str]:
    """Say which operators of a source have no way to the pivot, and what else its reader found.

    Args:
        found: What the plugin that owns the source format said about it.

    Returns:
        One sentence for each, none twice; empty if nothing stands in the way.
    """
    reasons = [
        f"{use.name} at {use.where or 'an unknown place'} has no way to ONNX"
        + (f": {use.note}" if use.note else ".")
        for use in found.operators
        if use.convertible is False
    ]
    return list(dict.fromkeys([*reasons, *found.problems]))


__all__ = ["without_a_way"]
