"""``lepton_check``: will a source fit, judged from its inspection alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.reasons import without_a_way
from lepton_core.types import CheckRequest, CheckResult, InspectResult, Model
from lepton_coreml._features import unsupported
from lepton_coreml.info import INFO

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL_FLOW = ("cond", "while_loop", "map_impl", "scan")
"""torch's operators that run others."""


def check(model: Model, request: CheckRequest) -> CheckResult:
    """Judge whether a model can become an ML Program, without importing coremltools.

    An ONNX source is judged by the operators that the bridge translates to torch; any other source
    by whether each operator has a way to the pivot. What coremltools cannot translate after that
    is found when the model is converted.
    """
    found = request.inspection
    reasons = list(
        _onnx_reasons(found)
        if found.domain == "onnx"
        else [*without_a_way(found), *_control_flow(found)]
    )
    signature = found.model.signature or model.signature
    for spec in unsupported(signature):
        reasons.append(f"{spec} is of a kind that Core ML's arrays cannot hold.")
    if reasons:
        return CheckResult("impossible", tuple(reasons))
    return CheckResult("fits", precisions=INFO.precisions)


def _control_flow(found: InspectResult) -> Iterator[str]:
    """Say what in a torch source becomes an If or a Loop, which the way back to torch has not."""
    for use in found.operators:
        if use.name in _CONTROL_FLOW:
            place = f", first at {use.where}" if use.where else ""
            yield (
                f"{use.name} ({use.count} times{place}) decides by values which operators run, and "
                "that has no way to Core ML."
            )


def _onnx_reasons(found: InspectResult) -> Iterator[str]:
    from lepton_torch.catalogue import covered

    for use in found.operators:
        if not covered(use.name):
            place = f", first at {use.where}" if use.where else ""
            yield (
                f"{use.name} ({use.count} times{place}) is an operator that has no translation "
                "to torch, and Core ML is reached through it."
            )
    yield from found.problems


__all__ = ["check"]
