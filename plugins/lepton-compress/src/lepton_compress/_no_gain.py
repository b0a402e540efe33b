"""The refusal of what is within its budget, and has nothing for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_compress._bench import Trial


def no_gain(
    precision: str, trial: Trial, plain: Trial, details: Mapping[str, Any]
) -> OptimizeError:
    """Return the error of a candidate that holds: no budget, and no sample, would change it.

    Args:
        precision: What was asked for.
        trial: The candidate.
        plain: The float model, measured.
        details: Of the error.
    """
    return OptimizeError(
        "LPT-OPT-014",
        f"No {precision} variant is smaller or faster here than the float model",
        cause=f"{trial.name} is within the budget, but has {trial.size} bytes instead of "
        f"{plain.size}, and is not faster",
        remedy="Keep the float model; compression pays from some ten thousand weights on.",
        details=dict(details),
    )


__all__ = ["no_gain"]
