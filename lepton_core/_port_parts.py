"""What the main job keeps of each combination on its way to a variant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.errors import LeptonError
    from lepton_core.planner import Step
    from lepton_core.types import EvaluateResult, Model, Target


@dataclass(slots=True)
class Built:
    """One requested combination on its way to a variant."""

    target: Target
    precision: str
    model: Model | None = None
    origin: Model | None = None
    facts: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    coverage: float | None = None
    recovered: tuple[str, ...] = ()
    outputs: EvaluateResult | None = None
    latency: dict[str, float] | None = None
    race: Mapping[str, Any] = field(default_factory=dict)
    untimed: str = ""
    error: LeptonError | None = None
    start: Start | None = None


@dataclass(slots=True)
class Start:
    """What a target's way starts from: the source, or a form of it fitted to the target.

    Attributes:
        model: The model.
        steps: The conversions from there to the target's artifact.
        facts: What the conversions before it found out.
        warnings: What the user should know about the way so far.
        before: The conversions that led there from the source.
    """

    model: Model
    steps: tuple[Step, ...]
    facts: dict[str, Any]
    warnings: tuple[str, ...] = ()
    before: tuple[Step, ...] = ()

    @property
    def path(self) -> tuple[Step, ...]:
        """The whole path from the source on."""
        return (*self.before, *self.steps)


__all__ = ["Built", "Start"]
