"""Versions and lineage entries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from lepton_core.environment import version_of, versions_of
from lepton_core.types import LineageStep
from lepton_torch.info import INFO

if TYPE_CHECKING:
    from lepton_core.types import ConvertRequest

_TOOLS = ("torch", "onnxscript", "onnx", "transformers", "safetensors", "numpy")


def tools() -> dict[str, str]:
    """Return the versions of the packages that do the work."""
    return versions_of(*_TOOLS)


def lineage_step(
    step: str, parent: str | None, request: ConvertRequest | dict[str, Any]
) -> LineageStep:
    """Return the lineage entry of one step."""
    plain = request if isinstance(request, dict) else dataclasses.asdict(request)
    owner = f"{INFO.distribution} {version_of(INFO.distribution) or 'from source'}"
    return LineageStep(step, owner, parent=parent or None, request=plain, tools=tools())
