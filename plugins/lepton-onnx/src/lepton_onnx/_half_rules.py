"""Which nodes and weights may be float16, and why not.

The operator definitions decide, not a list of operators: a parameter may be float16 if the type
constraint of the definition at the model's opset allows it. What definitions cannot tell is
judged by what values are: weights that float16 cannot hold, numbers computed from integers
(positions, sizes), and numbers that may be too large stay in float32, and so does what is computed
from them alone, until it meets other data or an operator whose results are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from lepton_onnx._protobuf import DEFAULT_DOMAINS, subgraphs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx.defs import OpSchema

LARGEST = 65504.0
"""Largest finite float16."""

SMALLEST = 2.0**-24
"""Smallest positive float16 (subnormal)."""

_RELATIVE_LIMIT = 2.0**-10
"""A matrix that loses more than this (relative L2) has values below float16's normal range."""

_BOUNDED = frozenset({
    "Softmax", "Sigmoid", "Tanh", "Erf", "Sin", "Cos", "HardSigmoid", "Softsign",
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "BatchNormalization", "LpNormalization", "MeanVarianceNormalization",
})  # fmt: skip
"""Operators whose results are small whatever goes in."""

_DTYPE_ATTRIBUTES = {"dtype", "output_datatype"}
_WIDE_INTEGERS = (
    TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32, TensorProto.UINT32,
    TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE,
)  # fmt: skip
_NARROW = (
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4,
    TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2FNUZ, TensorProto.FLOAT4E2M1,
)  # fmt: skip


def why_not_half(values: NDArray[np.float32]) -> str:
    """Say why float16 cannot hold *values*; ``""`` if it can.

    It cannot if a finite value becomes infinite; if a value of a scalar or vector becomes zero
    (a variance, an epsilon); or if the whole loses more than 2⁻¹⁰ of its length, which only values
    below the normal range can cause.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
        back = half.astype(np.float32)
        finite = np.isfinite(values)
        if np.any(np.isinf(half) & finite):
            return f"overflow: reaches {float(np.max(np.abs(values[finite]))):.4g}"
        if np.squeeze(values).ndim <= 1 and np.any((half == 0) & (values != 0)):
            tiny = np.abs(values[(half == 0) & (values != 0)])
            return f"underflow: {float(tiny.min()):.4g} would become 0"
        exact = values[finite].astype(np.float64)
        length = float(np.linalg.norm(exact))
        lost = float(np.linalg.norm(exact - back[finite])) / length if length else 0.0
    return f"underflow: {lost:.2g} of it would be lost" if lost > _RELATIVE_LIMIT else ""


@dataclass(slots=True)
class Formals:
    """Which inputs and outputs of a node may be float16.

    Attributes:
        inputs: One flag per actual input.
        outputs: One flag per actual output.
        stashes: Whether the operator computes in float32 inside (it has a ``stash_type``).
    """

    inputs: list[bool]
    outputs: list[bool]
    stashes: bool = False


def formals_of(node: NodeProto, opset: int) -> Formals | None:
    """Read from the operator's definition which parameters may be float16.

    Returns:
        One flag per actual input and output; ``None`` if ONNX does not define the operator.
    """
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    return Formals(
        [_allows(schema.inputs, i, allowed) for i in range(len(node.input))],
        [_allows(schema.outputs, i, allowed) for i in range(len(node.output))],
        stashes="stash_type" in schema.attributes,
    )


def _allows(
    formals: Sequence[OpSchema.FormalParameter], index: int, allowed: Mapping[str, set[str]]
) -> bool:
    if not formals:
        return False
    formal = formals[min(index, len(formals) - 1)]
    return "tensor(float16)" in allowed.get(formal.type_str, {formal.type_str})


def _holds_tensors(node: NodeProto) -> bool:
    """Tell whether attributes hold tensors; only ConstantOfShape's is rewritten."""
    kinds = {a.type for a in node.attribute}
    return node.op_type != "ConstantOfShape" and onnx.AttributeProto.TENSOR in kinds


def _chooses_dtype(node: NodeProto) -> bool:
    """Tell whether an attribute fixes the output's dtype; only Cast's is rewritten."""
    names = {a.name for a in node.attribute}
    return bool(names & _DTYPE_ATTRIBUTES) or (node.op_type != "Cast" and "to" in names)


@dataclass
class Rules:
    """Decides node by node, in topological order.

    Attributes:
        opset: Version of ONNX's operators.
        types: Element type by value; 0 if it is no tensor or not known.
        constants: Why float16 cannot hold a float32 weight (``""`` if it can), by name.
        matrices: Weights with two or more axes longer than 1.
        keep: Names of nodes, values or operators that the caller wants in float32.
        wide: Values that the caller's ranges put outside of float16.
        sticky: Values in float32 that keep what is computed from them alone in float32.
        large: Those of them that may exceed float16, so that a cast must saturate.
    """

    opset: int
    types: Mapping[str, int]
    constants: Mapping[str, str]
    matrices: frozenset[str]
    keep: frozenset[str]
    wide: frozenset[str]
    sticky: set[str] = field(default_factory=set)
    large: set[str] = field(default_factory=set)

    def reason(self, node: NodeProto, formals: Formals | None) -> str:
        """Say why *node* must stay in float32; ``""`` if it may be float16."""
        reason = self._own_reason(node, formals) or self._reason_by_values(node)
        if reason:
            self._mark(node, reason)
        return reason

    def _floats(self, names: object) -> list[str]:
        return [n for n in names if n and self.types.get(n) == TensorProto.FLOAT]  # type: ignore[attr-defined]

    def _own_reason(self, node: NodeProto, formals: Formals | None) -> str:
        if formals is None:
            return "ONNX does not define the operator"
        names = [n for n in (*node.input, *node.output) if n]
        pairs = [
            *zip(node.input, formals.inputs, strict=True),
            *zip(node.output, formals.outputs, strict=True),
        ]
        may = any(may for n, may in pairs if self.types.get(n) == TensorProto.FLOAT)
        cases = (
            ("asked for", {node.name, node.op_type, *names} & self.keep),
            ("it holds nested graphs", any(True for _ in subgraphs(node))),
            ("a type is not known", any(not self.types.get(n) for n in names)),
            ("its attributes hold float32 tensors", _holds_tensors(node)),
            ("it chooses its own dtype", _chooses_dtype(node)),
            ("ONNX defines it for float32 only", not may),
        )
        return next((why for why, holds in cases if holds), "") or self._attribute_reason(
            node, formals
        )

    def _attribute_reason(self, node: NodeProto, formals: Formals) -> str:
        kinds = {self.types.get(n) for n in (*node.input, *node.output) if n}
        if node.op_type != "Cast" and kinds & set(_NARROW):
            return "its numbers define a quantization"
        if node.op_type == "ConstantOfShape" and node.attribute:
            values = numpy_helper.to_array(node.attribute[0].t)
            return why_not_half(values) if values.dtype == np.float32 else ""
        if formals.stashes:
            return ""
        for attribute in node.attribute:
            size = abs(attribute.f) if attribute.type == onnx.AttributeProto.FLOAT else 0.0
            if np.isfinite(size) and (size > LARGEST or 0 < size < SMALLEST):
                return f"its {attribute.name} is {size:.4g}"
        return ""

    def _reason_by_values(self, node: NodeProto) -> str:
        inputs = self._floats(node.input)
        if set(node.input) & self.wide or set(node.output) & self.wide:
            return "its values exceed float16's range"
        unfit = next((n for n in inputs if self.constants.get(n)), "")
        if unfit:
            return f"weight {unfit!r}: {self.constants[unfit]}"
        data = [n for n in inputs if n not in self.constants]
        if data and all(n in self.sticky for n in data):
            return "it is computed from values kept in float32 alone"
        source = self.types.get(node.input[0]) if node.input else None
        if node.op_type == "Cast" and source in _WIDE_INTEGERS:
            return "its values come from wide integers"
        return ""

    def _mark(self, node: NodeProto, reason: str) -> None:
        """Remember what follows from a node's staying in float32."""
        outputs = set(self._floats(node.output))
        if set(node.output) & self.wide:
            self.large |= outputs & self.wide
            self.sticky |= outputs & self.wide
        if node.op_type in _BOUNDED:
            return
        inputs = set(self._floats(node.input))
        overflow = any(self.constants.get(n, "").startswith("overflow") for n in inputs)
        large = overflow or bool(inputs & self.large)
        if "overflow" in reason or large:
            self.large |= outputs
        matrix = bool(inputs & self.matrices)
        inherits = reason.startswith(("it is computed", "its values come", "weight", "overflow"))
        ranges = "Range" in node.op_type
        if (inherits and not (matrix and not large)) or ranges:
            self.sticky |= outputs
