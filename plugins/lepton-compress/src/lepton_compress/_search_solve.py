"""Which choices to try: the path of least predicted error over all sizes, and moves around it.

Errors of single weights are small and hardly correlated, so that their powers add up at the output;
sizes add up too. Under these two sums the best choices over all sizes are a multiple-choice
knapsack. Its Lagrangian relaxation is solved exactly by the lower convex hull of each unit's
choices: sorted by error per byte, the steps along the hulls are the path (Sinha and Zoltners,
Operations Research 1979, 27:503-515).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lepton_compress._search_space import Assignment


@dataclass(frozen=True, slots=True)
class Cost:
    """What one choice of one unit is predicted to do.

    Attributes:
        size: Bytes more than with float; usually negative.
        error: Power of the error at the output, relative to that of the output.
    """

    size: float
    error: float


Costs = dict[str, dict[str, Cost]]
"""By unit and precision; float is there with ``Cost(0, 0)``."""


def predicted(costs: Costs, chosen: Assignment) -> Cost:
    """Return the sums over all units."""
    parts = [costs[unit][choice] for unit, choice in chosen.items()]
    return Cost(sum(p.size for p in parts), sum(p.error for p in parts))


def hull(choices: Mapping[str, Cost]) -> list[str]:
    """Return the choices on the lower convex hull of error over size, from large to small."""
    order = sorted(choices, key=lambda n: (-choices[n].size, choices[n].error, n))
    found: list[str] = []
    for name in order:
        one = choices[name]
        while found and choices[found[-1]].error >= one.error:
            found.pop()  # smaller and no worse
        while len(found) > 1 and _slope(choices, found[-2], found[-1]) >= _slope(
            choices, found[-1], name
        ):
            found.pop()
        found.append(name)
    return found


def _slope(choices: Mapping[str, Cost], one: str, two: str) -> float:
    saved = choices[one].size - choices[two].size
    return (choices[two].error - choices[one].error) / saved if saved > 0 else float("inf")


def path(costs: Costs) -> list[dict[str, str]]:
    """Return choices from the largest to the smallest, each the best of its predicted size.

    Args:
        costs: By unit and precision.

    Returns:
        The first has the least error for every unit, and each step makes one unit smaller.
    """
    hulls = {unit: hull(choices) for unit, choices in costs.items()}
    current = {unit: names[0] for unit, names in hulls.items()}
    steps = sorted(
        (_slope(costs[unit], one, two), unit, place)
        for unit, names in hulls.items()
        for place, (one, two) in enumerate(itertools.pairwise(names), 1)
    )
    found = [dict(current)]
    for _, unit, place in steps:
        current[unit] = hulls[unit][place]
        found.append(dict(current))
    return found


def count(costs: Costs) -> int:
    """Return how many choices there are."""
    total = 1
    for choices in costs.values():
        total *= len(choices)
    return total


def everything(costs: Costs) -> Iterator[dict[str, str]]:
    """Yield every choice."""
    units = list(costs)
    for names in itertools.product(*(costs[unit] for unit in units)):
        yield dict(zip(units, names, strict=True))


def smaller(costs: Costs, chosen: Assignment, *, pairs: bool = True) -> Iterator[dict[str, str]]:
    """Yield choices nearby that are predicted to be smaller, those of least error first.

    One unit gets another precision; with *pairs* two do, where one alone may grow.
    """
    return nearby(costs, chosen, lambda change: change.size < 0, pairs=pairs)


def nearby(
    costs: Costs, chosen: Assignment, wanted: Callable[[Cost], bool], *, pairs: bool = True
) -> Iterator[dict[str, str]]:
    """Yield choices that differ in one unit or two, those of least predicted error first.

    Args:
        costs: By unit and precision.
        chosen: The choice to start from.
        wanted: Tells by what a change adds to size and error whether it is meant.
        pairs: Whether two units may change at once.
    """
    changes = [
        (unit, choice, cost.size - costs[unit][chosen[unit]].size,
         cost.error - costs[unit][chosen[unit]].error)
        for unit in chosen for choice, cost in costs[unit].items() if choice != chosen[unit]
    ]  # fmt: skip
    found: list[tuple[float, tuple[tuple[str, str], ...]]] = []
    for index, (unit, choice, size, error) in enumerate(changes):
        if wanted(Cost(size, error)):
            found.append((error, ((unit, choice),)))
        for other, second, more, worse in changes[index + 1 :] if pairs else ():
            if other != unit and wanted(Cost(size + more, error + worse)):
                found.append((error + worse, ((unit, choice), (other, second))))
    found.sort(key=itemgetter(0, 1))
    for _, change in found:
        yield {**chosen, **dict(change)}


__all__ = ["Cost", "Costs", "count", "everything", "hull", "nearby", "path", "predicted", "smaller"]
