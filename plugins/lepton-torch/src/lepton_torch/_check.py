"""The target's judgement, made from an inspection; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.types import CheckResult
from lepton_torch.info import INFO

if TYPE_CHECKING:
    from lepton_core.types import CheckRequest, Model


def check(model: Model, request: CheckRequest) -> CheckResult | None:
    """Say whether the source can be run by torch as an exported program.

    Sources of this plugin can if they can be exported; operators without an ONNX translation do
    not matter here. ONNX models can if the bridge knows their operators.

    Args:
        model: The source.
        request: Its inspection.

    Returns:
        ``fits`` or ``impossible``; ``None`` for another target.
    """
    if request.target != INFO.id:
        return None
    if model.format in ("onnx", "pivot"):
        return _check_graph(request)
    if model.format not in {source.id for source in INFO.sources}:
        return CheckResult(
            "impossible", reasons=(f"no conversion leads from {model.format} to torch.export",)
        )
    if request.inspection.facts.get("exported") is False:
        return CheckResult("impossible", reasons=request.inspection.problems)
    return CheckResult("fits", precisions=INFO.precisions)


def _check_graph(request: CheckRequest) -> CheckResult:
    from lepton_torch._bridge.catalogue import covered

    gaps = tuple(
        f"{use.name} ({use.where}) has no translation to torch"
        for use in request.inspection.operators
        if not covered(use.name)
    )
    if gaps:
        return CheckResult("impossible", reasons=gaps)
    return CheckResult("fits", precisions=INFO.precisions)
