"""Looking at a source: what it holds, and what fits where."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any

from lepton_core.types._model import Model  # noqa: TC001 - as above


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """What to find out about a source without converting it.

    Attributes:
        operators: Whether to list operators (may take seconds), not just the signature.
        values: Whether to list the values inside, where the owner can.
    """

    operators: bool = True
    values: bool = False


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """One operator as a source uses it.

    Attributes:
        name: Qualified name (``"ai.onnx::Conv"``, ``"aten.conv2d.default"``).
        count: How often it stands in the graph.
        where: The user's source line of the first use (``"net.py:31 in forward"``), or a node.
        convertible: Whether the way to the pivot knows it; ``None`` if that is not known.
        note: Why not, or what it will be rewritten to.
    """

    name: str
    count: int
    where: str = ""
    convertible: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ValueUse:
    """One value that an operator inside a model yields.

    Attributes:
        name: Its name.
        dtype: NumPy dtype name; empty if it is not known.
        operator: Type of the operator (``"Conv"``).
        node: Name of the operator.
        inputs: Values that the operator reads, constants left out.
        row_bytes: Estimated bytes per sample.
        output: Whether it is an output of the model.
    """

    name: str
    dtype: str
    operator: str
    node: str = ""
    inputs: tuple[str, ...] = ()
    row_bytes: int = 4
    output: bool = False


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What is known about a source.

    Attributes:
        model: The source with signature, digest and metadata filled in.
        operators: Operators in use.
        domain: Namespace of the operators (``"onnx"``, ``"aten"``).
        parameters: Number of trained values.
        facts: Opset, producer, precision of weights, … (JSON types).
        problems: What would stop a conversion, in words, with the place in the source.
        values: Values that follow from the inputs, in topological order, if they were asked for.
    """

    model: Model
    operators: tuple[OperatorUse, ...] = ()
    domain: str = ""
    parameters: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    values: tuple[ValueUse, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What a target should judge.

    Attributes:
        target: Target id.
        inspection: What is known about the source.
        device: Device of the target string, if any.
    """

    target: str
    inspection: InspectResult
    device: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A target's judgement before anything is converted.

    Attributes:
        verdict: ``"fits"``, ``"needs-rewrite"`` or ``"impossible"``.
        reasons: For the latter two: which rewrite, or why not and where in the source. With
            ``"fits"``: what is worth knowing, such as operators that run elsewhere.
        precisions: Precisions that could be built.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


__all__ = [
    "CheckRequest",
    "CheckResult",
    "InspectRequest",
    "InspectResult",
    "OperatorUse",
    "ValueUse",
]
