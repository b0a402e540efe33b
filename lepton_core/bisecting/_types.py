"""What a bisection works on, and what it finds out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Model, Target

FLOOR = 1e-6
"""Largest absolute error below which a pivot's values do not part, however small they are."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two variants.

    Attributes:
        name: As the user named it, or ``"pivot"`` for the yardstick.
        target: What it was lowered for; ``None`` for the pivot itself, run as the yardstick.
        precision: Its precision.
        pivot: What it was lowered from.
        recipe: Path of the recipe that it was lowered by, if any.
        artifact: The artifact; ``None`` for the yardstick.
        options: Options of its conversion, as its lineage records them.
    """

    name: str
    target: Target | None
    precision: str
    pivot: Model
    recipe: str | None = None
    artifact: Model | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runtime(self) -> str:
        """Target and precision, for people."""
        return f"{self.target} {self.precision}" if self.target else "the pivot as the yardstick"


@dataclass(frozen=True, slots=True)
class Parting:
    """One value of the pivot, compared.

    Attributes:
        value: Its name.
        operator: Type of the operator that yields it.
        node: Name of that operator.
        place: The user's module or source line, where the pivot knows it; else empty.
        error: Relative L2 error of the second variant, infinite where only one side is finite.
        max_abs: Largest absolute error.
        cosine: Cosine of both.
        largest: Largest magnitude on the first side.
        own: Relative L2 error with the first side's values as inputs; ``None`` if not measured.
        hint: What may be the cause, where it can be seen; else empty.
    """

    value: str
    operator: str
    node: str
    place: str
    error: float
    max_abs: float
    cosine: float
    largest: float
    own: float | None = None
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; what is not finite becomes ``None``."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return {k: None if _odd(v) else v for k, v in data.items()}


def _odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Bisection:
    """What came out.

    Attributes:
        first: The variant that is the measure.
        second: The variant that is compared.
        tolerance: Largest relative L2 error that does not count as parting.
        rows: Samples that were run.
        values: Every value compared, in topological order.
        parted: The first value that parts; ``None`` if none does.
        culprit: The first value on the way to it whose own error exceeds the tolerance; ``None``
            if no operator alone does: then errors add up.
        contributors: Values on the way to :attr:`parted` by falling own error, five at most.
        outputs_part: Whether an output of the model exceeds the tolerance.
        faithful: Largest relative L2 difference of an output between the artifacts as they are
            and the ones with taps; 0 if tapping changed nothing. ``None`` if not compared.
        notes: What the reader should know.
        differences: How the artifacts differ, in words, where they were looked into.
        inside: Whether the values are an artifact's own, and not the pivot's.
    """

    first: Side
    second: Side
    tolerance: float
    rows: int
    values: tuple[Parting, ...]
    parted: Parting | None
    culprit: Parting | None
    contributors: tuple[Parting, ...]
    outputs_part: bool
    faithful: float | None
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    inside: bool = False

    def parts(self, one: Parting) -> bool:
        """Tell whether the error of one of the values counts."""
        return one.error > self.tolerance and (self.inside or one.max_abs > FLOOR)

    def makes(self, one: Parting) -> bool:
        """Tell whether the operator that yields one of the values makes an error that counts."""
        return one.own is not None and one.own > self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        sides = [
            {
                "name": side.name,
                "target": str(side.target) if side.target else None,
                "precision": side.precision,
                "digest": side.artifact.digest if side.artifact else side.pivot.digest,
            }
            for side in (self.first, self.second)
        ]
        return {
            "ok": self.parted is None,
            "first": sides[0],
            "second": sides[1],
            "pivot": self.first.pivot.digest or None,
            "of": "artifact" if self.inside else "pivot",
            "tolerance": self.tolerance,
            "rows": self.rows,
            "parted": self.parted and self.parted.to_dict(),
            "culprit": self.culprit and self.culprit.to_dict(),
            "contributors": [one.to_dict() for one in self.contributors],
            "outputs_part": self.outputs_part,
            "tapping_changed": None if _odd(self.faithful) else self.faithful,
            "values": [one.to_dict() for one in self.values],
            "differences": list(self.differences),
            "notes": list(self.notes),
        }


__all__ = ["FLOOR", "Bisection", "Parting", "Side"]
