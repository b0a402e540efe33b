"""Recovery within a search: what gives back what static int8 loses, before anything is chosen.

It is found out on the whole model in static int8, as without a search: on calibration rows, and
kept if it gains on search rows. A search then goes through its choices with all of it in place.
Rescaled channels change the integers of all weights, for better or worse: there the search is made
with and without, and the choices of both are verified in one sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_compress._bench import Bench
from lepton_compress._options import RECOVERIES
from lepton_compress._recover import Recoverer
from lepton_compress._recover_recipe import Recovery
from lepton_compress._search_cache import key_of
from lepton_core.errors import UnsupportedOperationError

if TYPE_CHECKING:
    from lepton_compress._job import Job
    from lepton_compress._search_cache import Cache
    from lepton_core.samples import Samples


@dataclass(frozen=True)
class Recovered:
    """What is done to the float graph before it is searched.

    Attributes:
        recovery: What was kept.
        facts: For the record: ``recovery`` and ``diagnosis``; empty if nothing was tried.
    """

    recovery: Recovery = field(default_factory=Recovery)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def instead(self) -> bool:
        """Whether a search with it needs none without: float weights and ranges are the same."""
        return not self.recovery.empty and not self.recovery.moves_ranges


def recover_before_search(
    job: Job, calibration: Samples, searched: Samples, cache: Cache
) -> Recovered:
    """Find out what gives back what static int8 loses.

    Args:
        job: The request; its options name the methods, all by default.
        calibration: Rows that things are found out on.
        searched: Rows that verify them; rows that the result is verified on are not among them.
        cache: What earlier runs found out; an interrupted search tries nothing twice.
    """
    asked = job.options.recover
    methods = RECOVERIES if asked is None else asked
    if not methods:
        return Recovered()
    budget = job.request.max_drop  # what passes is not tried to be recovered
    key = key_of({"recover": sorted(methods), "rows": searched.digest, "max_drop": budget})
    known = cache.get(key)
    if known is None:
        known = _tried(job, calibration, searched, methods)
        cache.put(key, known)
    return Recovered(Recovery.from_dict(known["recovery"]), known["facts"])


def _tried(
    job: Job, calibration: Samples, searched: Samples, methods: tuple[str, ...]
) -> dict[str, Any]:
    """Return what was kept and what is to be said about it, JSON types."""
    estimator = job.options.estimator
    recipe, _ = Recovery().recipe(job, calibration, estimator, job.options.keep)
    bench = Bench.prepare(job, searched)
    try:
        plain = bench.measure(f"{recipe.precision} ({estimator})", recipe, estimator, ())
    except UnsupportedOperationError:
        return {"recovery": Recovery().to_dict(), "facts": {}}
    recoverer = Recoverer(job, calibration, bench, estimator, plain, each_weight=True)
    recoverer.run(methods)
    facts = {"recovery": recoverer.facts(plain), "diagnosis": recoverer.diagnosis()}
    return {"recovery": recoverer.recovery.to_dict(), "facts": _plain(facts)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON types
    """Return JSON types without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Recovered", "recover_before_search"]
