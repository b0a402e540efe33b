"""When a candidate of recovery is better than the one before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_core.timing import LEAST_SPEEDUP

if TYPE_CHECKING:
    from lepton_compress._bench import Trial

LITTLE = 0.01
"""Error of the outputs, every channel counted alike, that nobody needs to get back."""

_GAIN = 0.9
_MORE = 1.5
_CHANCE = 0.01


def gains(new: Trial, old: Trial, rows: int) -> bool:
    """Tell whether a candidate is better on rows that it was not made with.

    Two rows of the metric, at most a hundredth, are taken for chance; the error of the outputs,
    channel by channel, has to fall by a tenth then. A metric that gains more must not cost the
    outputs anything.
    """
    if math.isnan(new.drop) or math.isnan(new.balanced):
        return False
    chance = _chance(rows)
    if new.balanced < _GAIN * old.balanced:
        return new.drop <= old.drop + chance
    return new.drop < old.drop - chance and new.balanced <= old.balanced


def saves_time(new: Trial, old: Trial, rows: int, *, budgeted: bool) -> bool:
    """Tell whether a candidate is faster at no loss that counts.

    Both were timed in turns with the float model, at different moments: how much faster than that
    they are is compared, and their intervals must lie apart.

    It has to pass, and the metric may lose what is taken for chance. Where no budget tells what
    the outputs may lose (*budgeted*), their error may be half as large again at most.
    """
    if not new.race or not old.race or not new.passes:
        return False
    if not budgeted and new.balanced > max(_MORE * old.balanced, LITTLE):
        return False
    if new.drop > old.drop + _chance(rows):
        return False
    apart = new.race["interval"][0] > old.race["interval"][1]
    return bool(apart and new.race["speedup"] >= LEAST_SPEEDUP * old.race["speedup"])


def _chance(rows: int) -> float:
    """Return the difference of a metric on that many rows that is taken for chance."""
    return min(2.0 / max(rows, 1), _CHANCE)


__all__ = ["LITTLE", "gains", "saves_time"]
