"""``lepton_check``: will a source fit, judged from its inspection alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.errors import PluginDependencyError
from lepton_core.reasons import without_a_way
from lepton_core.types import CheckRequest, CheckResult, InspectResult, Model
from lepton_onnxruntime import _runtime
from lepton_onnxruntime._limits import unsupported
from lepton_onnxruntime.info import INFO

if TYPE_CHECKING:
    from lepton_core.types import OperatorUse


def check(model: Model, request: CheckRequest) -> CheckResult:
    """Judge whether a model will run on ONNX Runtime.

    An ONNX source is judged by the operators and opsets that the installed runtime knows (by the
    declared ones if none is installed); any other source by whether each operator has a way to
    the pivot. Inputs and outputs must be of types that NumPy has. Symbolic dimensions fit.
    """
    found = request.inspection
    reasons = list(_onnx_reasons(found) if found.domain == "onnx" else without_a_way(found))
    for spec in unsupported(found.model.signature or model.signature):
        reasons.append(f"{spec} is of a kind that ONNX Runtime's session cannot pass.")
    if reasons:
        return CheckResult("impossible", tuple(reasons))
    return CheckResult("fits", precisions=INFO.precisions)


def _onnx_reasons(found: InspectResult) -> list[str]:
    try:
        known = _runtime.known_operators()
        version = _runtime.onnxruntime().__version__
    except PluginDependencyError:
        known, version = {}, "(not installed)"
    opset = int(found.facts.get("opset", 0))
    reasons = []
    accepted = _runtime.accepts_opset(opset) if known else _declared(opset)
    if opset and not accepted:
        reasons.append(f"It uses opset {opset}, which ONNX Runtime {version} does not load.")
    for use in found.operators:
        if not _is_known(use, known):
            reasons.append(
                f"{use.name} ({use.count} times, first at {use.where}) is an operator that ONNX "
                f"Runtime {version} does not know."
            )
    return reasons


def _declared(opset: int) -> bool:
    low, high = INFO.constraints.opsets or (0, opset)
    return low <= opset <= high


def _is_known(use: OperatorUse, known: dict[str, frozenset[str]]) -> bool:
    domain, _, operator = use.name.rpartition("::")
    if not known:
        return domain in INFO.constraints.domains
    return operator in known.get("" if domain == "ai.onnx" else domain, frozenset())
