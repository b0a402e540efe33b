"""The table of translations, and what a translation is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Node:
    """One node of the graph.

    Attributes:
        operator: ONNX's name of the operator.
        inputs: Names of the values it takes; an empty name is an input that is left out.
        outputs: Names of the values it makes; an empty name is one that nobody wants.
        attributes: As Python values; texts decoded.
        opset: Version of ONNX's operators that the graph was written for.
        place: Where it stands: the user's line if the exporter told, else its name.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 21
    place: str = ""

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - any attribute type
        """Return an attribute, or *default* where the node does not carry it."""
        return self.attributes.get(name, default)

    def refuse(self, what: str, remedy: str = "") -> NoReturn:
        """Refuse a form of the operator that has no translation.

        Raises:
            ConversionError: LPT-CONV-112, with the node and its place.
        """
        raise ConversionError(
            "LPT-CONV-112",
            f"{self.operator} at {self.place} cannot be translated to torch: {what}",
            remedy=remedy
            or "Write it with other operators; docs/reference/bridge.md "
            "lists those that are covered.",
            details={"operator": self.operator, "where": self.place},
        )


@dataclass(frozen=True)
class Operator:
    """A translation.

    Attributes:
        name: ONNX's name.
        compute: Takes the node and its inputs; gives a value, or a sequence of them.
        known: Positions of inputs that must be known at translation, such as axes.
        either: Positions of inputs that are taken as they come, known or as tensors.
        family: The file it stands in.
    """

    name: str
    compute: Callable[..., Any]
    known: tuple[int, ...]
    either: tuple[int, ...]
    family: str


OPERATORS: dict[str, Operator] = {}
"""Translations by operator; filled when :mod:`lepton_torch._bridge.operators` is imported."""


def operator(
    *names: str, known: tuple[int, ...] = (), either: tuple[int, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the translation of ONNX operators.

    Args:
        *names: ONNX's names.
        known: Positions of inputs that it takes as :class:`~lepton_torch._bridge._values.Known`
            (``None`` where they are left out); all others are tensors.
        either: Positions of inputs that it takes as they come.
    """

    def register(compute: Callable[..., Any]) -> Callable[..., Any]:
        family = compute.__module__.rpartition(".")[2].lstrip("_")
        for name in names:
            if name in OPERATORS:
                msg = f"{name} is registered twice"
                raise ValueError(msg)
            OPERATORS[name] = Operator(name, compute, known, either, family)
        return compute

    return register
