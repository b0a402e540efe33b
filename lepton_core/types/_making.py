"""The verbs that make a model: adapt, convert, optimize."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any

from lepton_core.capabilities import Constraints  # noqa: TC001 - as above
from lepton_core.types._model import Model  # noqa: TC001 - as above


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Remove channels from a model until a budget holds, and train what is left.

    Attributes:
        metric: What the budget counts: ``"macs"``, ``"parameters"`` or ``"latency"``.
        share: Share of the original that may be left, between 0 and 1.
        milliseconds: With ``"latency"``, the time of one request in the place of a share.
        importance: ``"taylor"``, ``"activation"``, ``"l2"`` or ``"l1"``; by default taylor with
            samples and l2 without.
        multiple: Widths become multiples of this; by default what the target declares.
        rounds: How often channels are removed and the rest trained.
        epochs: Passes over the rows, all rounds together.
        seconds: Time after which no pass begins, ``None`` for none.
        rows: Rows to train on; by default as many as a calibration takes.
        keep: Weights, or modules that hold them, that keep their width.
        max_drop: Largest accepted loss on the rows held out, in the metric's own unit.
        recipe: Path of a ``pruning.json`` to follow in the place of a budget.
    """

    metric: str = "macs"
    share: float | None = None
    milliseconds: float | None = None
    importance: str = ""
    multiple: int = 0
    rounds: int = 3
    epochs: int = 60
    seconds: float | None = None
    rows: int | None = None
    keep: tuple[str, ...] = ()
    max_drop: float | None = None
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """Fit a model to a target's constraints.

    Attributes:
        target: Target id whose declared constraints apply.
        rewrites: Names of the rewrites to do, needed or not, and no others; empty means those
            that the target needs and those that are done for every target.
        shapes: Fixed sizes by symbolic dimension (``{"batch": 1}``).
        options: Owner-specific options, documented by the owner.
        bounds: Smallest and largest size by symbolic dimension that stays open.
        constraints: Constraints to meet; the target's declared ones if ``None``.
        prune: Channels to remove first, if any.
        samples: Path of a prepared sample file to prune with, if any.
    """

    target: str
    rewrites: tuple[str, ...] = ()
    shapes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    constraints: Constraints | None = None
    prune: PruneRequest | None = None
    samples: str | None = None


@dataclass(frozen=True, slots=True)
class RewriteReport:
    """What became of one rewrite.

    Attributes:
        rewrite: Its name.
        changes: What it changed, one line per place.
        left: What it could not change: the place and why.
        difference: Largest relative L2 difference of an output that it caused on the trial
            inputs; ``None`` if it was not run.
        why: Why it was run, or why not.
    """

    rewrite: str
    changes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    difference: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """An adapted model and what changed.

    Attributes:
        model: The adapted model, or the one that went in if nothing had to be changed.
        changes: One line per change: the rewrite, what it did where, and what that does to
            numbers.
        warnings: What the user should know.
        considered: Every rewrite for this kind of model, run or not.
        facts: What else was found out: ``pruning`` is the receipt of what was pruned (JSON types).
    """

    model: Model
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    considered: tuple[RewriteReport, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """Walk one declared edge, or (through the façade) a planned path of them.

    Attributes:
        target: Target id the result is for.
        to_format: Format to produce; empty means the target's artifact format.
        precision: ``"fp32"``, ``"fp16"``, …; how the artifact is stored.
        device: Device of the target string, if any.
        recipe: Path of a compression recipe to lower, if any.
        opset: ONNX opset of the pivot; the owner may need another and records it.
        dynamic_batch: Whether the first dimension of inputs should stay symbolic.
        options: Owner-specific options, documented by the owner.
    """

    target: str
    to_format: str = ""
    precision: str = "fp32"
    device: str | None = None
    recipe: str | None = None
    opset: int = 21
    dynamic_batch: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """A converted model.

    Attributes:
        model: The result, with signature, digest and lineage.
        facts: What the converter found out or decided (opset read back, values kept in
            float32, …), JSON types.
        warnings: What the user should know.
    """

    model: Model
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizeRequest:
    """Compress a model under a budget.

    Attributes:
        target: Target id it is for (its schemes apply).
        engine: Engine that does it; ours by default.
        precision: ``"int8"``, ``"int8-weight"``, ``"int4"``, ``"auto"``, …; int8 if left out, or
            beside a recipe that recipe's own, and then empty.
        max_drop: Largest accepted loss, in the metric's own unit.
        samples: Path of a prepared sample file for calibration, if any.
        recipe: Path of a recipe to reproduce instead of searching.
        options: Engine-specific options, documented by the engine.
        max_size: Largest accepted size of the artifact: in bytes, or up to 1 as a share of the
            uncompressed one's; engines that do not search refuse it.
        device: Device of the target, if one is meant: what it cannot hold is refused.
        timing_seconds: Time to spend, about, on timing the result in turns with the float model;
            0 leaves out what it gains, sizes included.
        shared_with: Further targets, written as users do, that will lower the same recipe. What
            their kernels want of it counts as much as what those of ``target`` want.
    """

    target: str
    engine: str = "compress"
    precision: str = ""
    max_drop: float | None = None
    samples: str | None = None
    recipe: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    max_size: float | None = None
    device: str | None = None
    timing_seconds: float = 0.25
    shared_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.precision and self.recipe is None:
            object.__setattr__(self, "precision", "int8")


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """A compressed model, the recipe that reproduces it, and why this one."""

    model: Model
    recipe: str | None = None
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


__all__ = [
    "AdaptRequest",
    "AdaptResult",
    "ConvertRequest",
    "ConvertResult",
    "OptimizeRequest",
    "OptimizeResult",
    "PruneRequest",
    "RewriteReport",
]
