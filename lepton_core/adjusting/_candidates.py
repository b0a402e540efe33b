"""Which versions of a deployment may run in the place of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core._plugin_checks import check_backends
from lepton_core.deployment._signature import check_replaces
from lepton_core.errors import AdjustError, LeptonError
from lepton_core.types import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.dispatch import Hooks
    from lepton_core.store import Resolved, Store, Version


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may run, or why it may not.

    Attributes:
        version: The version.
        accuracy: Value of its passport's metric, ``None`` without one.
        metric: Name of that metric.
        refused: Why it may not run; empty if it may.
        higher_is_better: Direction of the metric.
    """

    version: Version
    accuracy: float | None = None
    metric: str = ""
    refused: str = ""
    higher_is_better: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "version": self.version.id,
            "target": self.version.target,
            "precision": self.version.precision,
            "accuracy": self.accuracy,
            "metric": self.metric,
            "refused": self.refused,
        }


def source_of(version: Version) -> str:
    """Return the digest of the model that a version's lineage begins with."""
    first = version.model.lineage[0].parent if version.model.lineage else None
    return first or version.model.digest


def find_candidates(
    store: Store, hooks: Hooks, base: Resolved, *, floor: float | None, allow_weak: bool
) -> tuple[Candidate, ...]:
    """Judge every version of a deployment.

    A variant must come from the same source, run here, fit the callers, and have a passport that
    passed; the alias's own version needs no passport, but the floor holds for it as well.

    Args:
        store: The store.
        hooks: Tells which targets can be used here.
        base: The version that the alias points to; the first of the result.
        floor: Value that the passport's metric must reach (must not exceed, where lower is
            better), if any.
        allow_weak: Whether the verdict weak is enough.

    Raises:
        AdjustError: LPT-ADJ-001, nothing meets the floor; names the closest.
    """
    versions = [v for v in store.versions(base.name) if v.id != base.version.id]
    judged = [
        _judge(store, hooks, base, version, floor, versions=versions, allow_weak=allow_weak)
        for version in (base.version, *versions)
    ]
    require_one(base, judged, floor)
    return tuple(judged)


def require_one(base: Resolved, judged: Sequence[Candidate], floor: float | None) -> None:
    """Check that a version may run.

    Raises:
        AdjustError: LPT-ADJ-001, none may; it says why each may not.
    """
    if all(one.refused for one in judged):
        raise _nothing(base, judged, floor)


def _judge(
    store: Store,
    hooks: Hooks,
    base: Resolved,
    version: Version,
    floor: float | None,
    *,
    versions: Sequence[Version],
    allow_weak: bool,
) -> Candidate:
    passport = store.passport(version)
    metric: Mapping[str, Any] = (passport or {}).get("metric") or {}
    name, accuracy = str(metric.get("name", "")), metric.get("variant")
    refused = _misfit(hooks, base.version, version)
    if not refused and version.id != base.version.id:
        refused = (
            _without_passport([base.version, *versions], version)
            if passport is None
            else _unproved(passport, allow_weak=allow_weak)
        )
    if not refused and floor is not None:
        refused = _below(metric, accuracy, floor)
    return Candidate(version, accuracy, name, refused, bool(metric.get("higher_is_better", True)))


def _misfit(hooks: Hooks, base: Version, version: Version) -> str:
    """Return why a version cannot stand in for another here, in words."""
    if source_of(version) != source_of(base):
        return "it comes from another source model"
    if not base.model.signature or not version.model.signature:
        which = "it" if not version.model.signature else base.id
        return f"{which} was stored without a signature; `lepton deploy` finds it out"
    try:
        check_replaces(base.model.signature, version.model.signature, version.id)
    except LeptonError as error:
        return f"its signature does not fit the callers: {error.cause}"
    try:
        check_backends(hooks.registry.target(Target.parse(version.target).id))
    except LeptonError as error:
        return f"{version.target} cannot be used here: {error.message}"
    return ""


def _without_passport(versions: Sequence[Version], version: Version) -> str:
    """Return what to do about a version without a passport, in words.

    Versions never change, so a migration stores what it built, compares it, and stores it again
    with the passport; the first is left to the collection.
    """
    if "migrated_from" not in version.facts:
        return "it has no passport; deploy it with the one that `lepton port` wrote"
    for other in versions:
        if other.role("passport") and _same_artifact(other, version):
            return f"it is a migration's candidate; {other.id} is the same with its passport"
    return (
        "it is the candidate of a migration that did not move there: migrate again with more "
        "recorded inputs (--data), or leave it to `lepton store gc`"
    )


def _same_artifact(one: Version, other: Version) -> bool:
    mine, its = ((v.target, v.precision, v.model.digest) for v in (one, other))
    return mine == its


def _unproved(passport: Mapping[str, Any], *, allow_weak: bool) -> str:
    verdict = passport["verdict"]["verdict"]
    if verdict == "pass" or (verdict == "weak" and allow_weak):
        return ""
    return f"its passport says {verdict}: {passport['verdict']['why']}"


def _below(metric: Mapping[str, Any], accuracy: float | None, floor: float) -> str:
    if accuracy is None:
        return "its passport has no metric to hold against the floor"
    better_up = bool(metric.get("higher_is_better", True))
    if accuracy >= floor if better_up else accuracy <= floor:
        return ""
    side = "below" if better_up else "above"
    return f"its {metric['name']} of {accuracy:.6g} is {side} the floor of {floor:g}"


def _nothing(base: Resolved, judged: Sequence[Candidate], floor: float | None) -> AdjustError:
    lines = [f"{c.version.id} ({c.version.target}): {c.refused}" for c in judged]
    details = {"floor": floor, "candidates": [c.to_dict() for c in judged]}
    if floor is None:
        return AdjustError(
            "LPT-ADJ-001",
            f"No version of {base.name} may run",
            cause="\n".join(lines),
            remedy="Deploy a variant that can run here, with its passport.",
            details=details,
        )
    measured = [c for c in judged if c.accuracy is not None]
    closest = min(measured, key=lambda c: _distance(c, floor), default=None)
    near = f" The closest is {closest.version.id} with {closest.accuracy:.6g}." if closest else ""
    return AdjustError(
        "LPT-ADJ-001",
        f"No version of {base.name} meets the floor of {floor:g}",
        cause="\n".join(lines),
        remedy=f"Relax --floor, or deploy a variant that is better.{near}",
        details=details,
    )


def _distance(candidate: Candidate, floor: float) -> float:
    """Return how far a candidate's metric is from the floor; negative if it meets it."""
    accuracy = candidate.accuracy or 0.0
    return floor - accuracy if candidate.higher_is_better else accuracy - floor


__all__ = ["Candidate", "find_candidates", "source_of"]
