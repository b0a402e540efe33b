"""What was asked for, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import UsageError
from lepton_torch._pruning._importance import CRITERIA

if TYPE_CHECKING:
    from lepton_core.capabilities import Constraints
    from lepton_core.types import PruneRequest

METRICS = ("macs", "parameters", "latency")


@dataclass(frozen=True)
class Settings:
    """A request with its defaults filled in; fields as in ``PruneRequest``."""

    metric: str
    share: float | None
    milliseconds: float | None
    criterion: str
    multiple: int
    rounds: int
    epochs: int
    seconds: float | None
    rows: int | None
    keep: tuple[str, ...]
    max_drop: float | None
    recipe: str | None

    @property
    def counted(self) -> str:
        """What channels are chosen by: the budget's unit; MACs stand for time."""
        return "macs" if self.metric == "latency" else self.metric

    def asked(self) -> dict[str, Any]:
        """Return what a record keeps, JSON types."""
        if self.recipe is not None:
            return {"recipe": Path(self.recipe).name, "epochs": self.epochs}
        found: dict[str, Any] = {
            "metric": self.metric,
            "share": self.share,
            "milliseconds": self.milliseconds,
            "importance": self.criterion,
            "multiple": self.multiple,
            "rounds": self.rounds,
            "epochs": self.epochs,
            "keep": list(self.keep),
        }
        return {k: v for k, v in found.items() if v is not None and v != []}


def read_settings(request: PruneRequest, constraints: Constraints, sampled: bool) -> Settings:
    """Check a request and fill in its defaults.

    Args:
        request: What was asked for.
        constraints: What the target likes.
        sampled: Whether there are rows to train on and rows held out.

    Raises:
        UsageError: LPT-ADAPT-022, something in it makes no sense.
    """
    criterion = request.importance or ("taylor" if sampled else "l2")
    odd = _beside_recipe(request) if request.recipe is not None else ""
    checks = (
        (request.metric not in METRICS, f"budgets are in {', '.join(METRICS)}"),
        (criterion not in CRITERIA, f"importance is one of {', '.join(CRITERIA)}"),
        (
            criterion in ("taylor", "activation") and not sampled,
            f"{criterion} is measured on samples, and none were given",
        ),
        (
            request.share is not None and not 0.0 < request.share < 1.0,
            "a share lies between 0 and 1",
        ),
        (
            request.milliseconds is not None and not request.milliseconds > 0.0,
            "a time is positive",
        ),
        (
            request.milliseconds is not None and request.metric != "latency",
            f"milliseconds are no budget of {request.metric}",
        ),
        (
            request.recipe is None and request.share is None and request.milliseconds is None,
            "neither a budget nor a recipe is given",
        ),
        (
            request.share is not None and request.milliseconds is not None,
            "a share and milliseconds are both given",
        ),
        (
            odd != "",
            f"a recipe says what goes, and {odd} beside it would mean nothing",
        ),
        (request.multiple < 0, "a multiple is at least 1"),
        (not 1 <= request.rounds <= 50, "rounds are 1 to 50"),
        (request.epochs < 0, "epochs are 0 or more"),
        (request.seconds is not None and not request.seconds >= 0, "seconds are 0 or more"),
        (request.rows is not None and request.rows < 1, "rows are 1 or more"),
        (request.max_drop is not None and not sampled, "a loss is measured on samples"),
        (
            request.max_drop is not None and math.isnan(request.max_drop),
            "a largest loss is a number",
        ),
    )
    for wrong, cause in checks:
        if wrong:
            raise UsageError(
                "LPT-ADAPT-022",
                "The model cannot be pruned as asked",
                cause=cause,
                remedy="Write --prune macs=0.5, parameters=0.5, latency=0.7 or latency=2.5ms, and "
                "give real inputs with --data.",
            )
    return Settings(
        request.metric, request.share, request.milliseconds, criterion,
        request.multiple or constraints.channel_multiple, request.rounds, request.epochs,
        request.seconds, request.rows, tuple(request.keep), request.max_drop, request.recipe,
    )  # fmt: skip


def _beside_recipe(request: PruneRequest) -> str:
    """Return a field that is given and means nothing beside a recipe."""
    plain = type(request)()
    names = ("share", "milliseconds", "importance", "multiple", "rounds", "keep")
    return next((n for n in names if getattr(request, n) != getattr(plain, n)), "")


__all__ = ["METRICS", "Settings", "read_settings"]
