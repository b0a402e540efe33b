"""Planning a conversion: the cheapest path over the edges that plugins declare."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.errors import PlanError, PluginConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.capabilities import Edge, PluginInfo, TargetInfo


@dataclass(frozen=True, slots=True)
class Step:
    """One edge and the one plugin that owns it."""

    owner: str
    edge: Edge
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.edge.source} -> {self.edge.result} ({self.owner})"


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from a source format to a result format, in order; may be empty."""

    source: str
    result: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.steps)) or f"{self.source} as it is"


Owned = dict[tuple[str, str], list[tuple[str, "Edge"]]]
"""Declared edges by (source, result), each with its owner; more than one owner is a conflict."""


def owned_edges(infos: Mapping[str, PluginInfo]) -> Owned:
    """Return every declared edge with the plugins that declare it."""
    owned: Owned = {}
    for owner, info in infos.items():
        for edge in info.edges:
            owned.setdefault((edge.source, edge.result), []).append((owner, edge))
    return owned


def plan(
    source: str, result: str, infos: Mapping[str, PluginInfo], *, precision: str = "fp32"
) -> Plan:
    """Find the cheapest path from one format to another.

    Every step before the last stays in fp32; the last one takes the asked precision. Two plugins
    that declare one edge are an error only if the path leads over it.

    Args:
        source: Format id to start from.
        result: Format id to reach.
        infos: Plugins whose edges count.
        precision: Precision of the result.

    Returns:
        The plan; ties go to fewer steps, then to the alphabet, so it is deterministic.

    Raises:
        PlanError: There is no path.
        PluginConflictError: Two plugins declare an edge of the path.
    """
    if source == result and precision == "fp32":
        return Plan(source, result, ())
    owned = owned_edges(infos)
    queue: list[tuple[int, int, tuple[str, ...], str]] = [(0, 0, (source,), source)]
    done: set[str] = set()
    while queue:
        cost, hops, path, here = heapq.heappop(queue)
        if here == result and hops:
            steps = tuple(
                _step(owned[pair], precision if pair[1] == result else "fp32", infos)
                for pair in itertools.pairwise(path)
            )
            return Plan(source, result, steps)
        if here in done:
            continue
        done.add(here)
        for (start, end), declared in owned.items():
            wanted = precision if end == result else "fp32"
            costs = [edge.cost for _, edge in declared if wanted in edge.precisions]
            if start == here and costs:
                heapq.heappush(queue, (cost + min(costs), hops + 1, (*path, end), end))
    raise _no_path(source, result, precision, owned)


def _step(
    declared: list[tuple[str, Edge]], precision: str, infos: Mapping[str, PluginInfo]
) -> Step:
    owner, edge = declared[0]
    if len(declared) > 1:
        raise PluginConflictError(
            "LPT-PLUG-008",
            f"The conversion {edge.source} -> {edge.result} is claimed by {len(declared)} plugins",
            cause=", ".join(f"{name} ({infos[name].distribution})" for name, _ in declared),
            remedy="Switch all but one off with LEPTON_DISABLED_PLUGINS.",
        )
    return Step(owner, edge, precision)


def _no_path(source: str, result: str, precision: str, owned: Owned) -> PlanError:
    into = [edge for (_, end), declared in owned.items() if end == result for _, edge in declared]
    offered = sorted({p for edge in into for p in edge.precisions})
    if into and precision not in offered:
        return PlanError(
            "LPT-PLAN-002",
            f"{result} cannot be built at {precision}",
            cause=f"precisions offered: {', '.join(offered)}",
            remedy="Ask for one of these, or install an engine that offers it "
            "(`lepton plugins` lists them).",
            details={"precision": precision, "offered": offered},
        )
    edges = ", ".join(f"{a} -> {b}" for a, b in sorted(owned)) or "none"
    return PlanError(
        "LPT-PLAN-001",
        f"No path of conversions leads from {source} to {result}",
        cause=f"conversions that installed plugins declare: {edges}",
        remedy="`lepton plugins` shows what is installed and what is missing.",
        details={"source": source, "result": result},
    )


def reachable(source: str, infos: Mapping[str, PluginInfo]) -> list[tuple[Step, ...]]:
    """Return the paths in fp32 to every format that can be reached, nearest first.

    The first is the empty path: the source as it is. Paths over an edge that two plugins declare
    are left out.
    """
    plans = [Plan(source, source, ())]
    for result in sorted({end for _, end in owned_edges(infos)} - {source}):
        try:
            plans.append(plan(source, result, infos))
        except (PlanError, PluginConflictError):
            continue
    plans.sort(key=lambda p: (sum(s.edge.cost for s in p.steps), len(p.steps)))
    return [p.steps for p in plans]


def plan_for_target(
    source: str, target: TargetInfo, infos: Mapping[str, PluginInfo], precision: str = "fp32"
) -> Plan:
    """Plan from a source format to a target's artifact; see :func:`plan`.

    Raises:
        PlanError: There is no path; for a precision that is not offered, with what the target says
            about it.
        PluginConflictError: Two plugins declare an edge of the path.
    """
    try:
        return plan(source, target.artifact, infos, precision=precision)
    except PlanError as error:
        note = target.capability(f"precision.{precision}").note
        if error.code != "LPT-PLAN-002" or not note:
            raise
        by_recipe = precision in target.offered
        raise PlanError(
            "LPT-PLAN-002",
            f"{target.title} cannot be built at {precision}"
            + (" without a recipe" if by_recipe else ""),
            cause=f"{note}; precisions offered: {', '.join(target.offered)}",
            remedy=f"`lepton optimize --precision {precision}` makes a recipe and lowers it; "
            "`lepton convert --recipe FILE` lowers one that there is."
            if by_recipe
            else error.remedy,
            details=error.details,
        ) from error


def options_of(step: Step, steps: Sequence[Step], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a conversion's options is for one step of its path.

    Args:
        step: The step.
        steps: The path. Its last step gets what no other one declares, and refuses what it does
            not know.
        options: Those of the whole conversion.
    """
    own = set(step.edge.options)
    if step != steps[-1]:
        return {name: value for name, value in options.items() if name in own}
    others = {name for other in steps for name in other.edge.options} - own
    return {name: value for name, value in options.items() if name not in others}


__all__ = ["Plan", "Step", "options_of", "owned_edges", "plan", "plan_for_target", "reachable"]
