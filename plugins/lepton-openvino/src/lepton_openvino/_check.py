"""``lepton_check``: will a source fit, judged from its inspection alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.reasons import without_a_way
from lepton_core.types import CheckRequest, CheckResult, InspectResult, Model
from lepton_openvino._dtypes import unsupported
from lepton_openvino._operators import is_known
from lepton_openvino.info import INFO

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(model: Model, request: CheckRequest) -> CheckResult:
    """Judge whether a model will run on OpenVINO, without importing it.

    An ONNX source is judged by its opset and by the operators that OpenVINO has conversion rules
    for; any other source by whether each operator has a way to the pivot. Symbolic dimensions fit.
    """
    found = request.inspection
    reasons = list(_onnx_reasons(found) if found.domain == "onnx" else without_a_way(found))
    signature = found.model.signature or model.signature
    for spec in unsupported(signature):
        reasons.append(f"{spec} is of a kind that OpenVINO's session cannot pass.")
    if reasons:
        return CheckResult("impossible", tuple(reasons))
    return CheckResult("fits", precisions=INFO.precisions)


def _onnx_reasons(found: InspectResult) -> Iterator[str]:
    low, high = INFO.constraints.opsets or (0, 0)
    opset = int(found.facts.get("opset", 0))
    if opset and not low <= opset <= high:
        yield f"It uses opset {opset}; OpenVINO reads opsets {low} to {high}."
    for use in found.operators:
        if not is_known(use.name):
            place = f", first at {use.where}" if use.where else ""
            yield (
                f"{use.name} ({use.count} times{place}) is an operator that OpenVINO has no "
                "conversion rule for."
            )
    yield from found.problems


__all__ = ["check"]
