"""Whether a change is kept: what was measured, and whose word counts for its answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_core.adjusting._effect import LIVE_TOLERANCE
from lepton_core.verdicts import precision_class

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from lepton_core.adjusting._effect import Effect
    from lepton_core.deployment._routes import Route
    from lepton_core.store import Store, Version

PASSPORT, RANDOM = "passport", "random"

_WHERE = {RANDOM: ", on random noise: give --data", "golden": " on the stored golden inputs"}
_STANDS = (
    "; its answers were not judged on random noise, which lies outside of calibrated ranges: its "
    "passport passed on real rows"
)


def judge(effect: Effect, *, forced: bool, limit: float) -> tuple[bool, str]:
    """Tell whether a change is kept, and why in words.

    Args:
        effect: What was measured.
        forced: Whether the routes before may not run at all (the floor), so that any is better.
        limit: Largest difference of the answers.
    """
    measured = (
        f"measured {effect.ratio:.3f} of the cost before ({effect.low:.3f}-{effect.high:.3f})"
    )
    # Another shape, or a value that is not finite on one side alone, is wrong on any input.
    stands = effect.answers == PASSPORT and math.isfinite(effect.rel_l2)
    if effect.rel_l2 > limit and not stands:
        where = _WHERE.get(effect.answers, "")
        return (
            False,
            f"the answers differ by {effect.rel_l2:.3g}, over {limit:g}{where}; {measured}",
        )
    if stands:
        measured += _STANDS
    if forced:
        return True, f"what ran before does not meet the floor; {measured}"
    if effect.ratio >= 1.0:
        return False, f"wrong sign: {measured}"
    if effect.high >= 1.0:
        return False, f"no gain beyond the noise: {measured}"
    if effect.live is not None and effect.live > LIVE_TOLERANCE:
        return False, f"live calls take {effect.live:.3f} of the time before; {measured}"
    live = "" if effect.live is None else f"; {effect.live:.3f} in {effect.live_calls} live calls"
    return True, measured + live


def answers_from(
    inputs: str,
    before: Collection[Route],
    after: Collection[Route],
    versions: Mapping[str, Version],
    store: Store,
) -> str:
    """Return what speaks for the answers: the inputs that were called with, or passports.

    Noise lies outside the ranges that a compressed variant was calibrated for, so what it answers
    there says nothing; a passport that passed was made on real rows, and says more.

    Args:
        inputs: Where the inputs came from: ``"samples"``, ``"golden"`` or ``"random"``.
        before: Routes that counted before, and
        after: after the change.
        versions: Versions by id.
        store: Where the passports are.

    Returns:
        *inputs*, or ``"passport"``.
    """
    ran, runs = ({route.version for route in routes} for routes in (before, after))
    if inputs != RANDOM or ran == runs:
        return inputs
    used = [versions[one] for one in sorted(ran | runs) if one in versions]
    calibrated = [v for v in used if precision_class(v.precision or "fp32") == "compressed"]
    proved = bool(calibrated) and _passed_on_real_rows(store.passport(v) for v in calibrated)
    return PASSPORT if proved else inputs


def _passed_on_real_rows(passports: Iterable[Mapping[str, Any] | None]) -> bool:
    return all(
        one is not None
        and one["verdict"]["verdict"] == "pass"
        and one["samples"]["origin"] != RANDOM
        for one in passports
    )


__all__ = ["answers_from", "judge"]
