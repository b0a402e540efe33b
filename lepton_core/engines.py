"""Who does what for a target that its own plugin does not do, from static descriptions alone."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lepton_core.capabilities import BY_RECIPE, ExtensionInfo, TargetInfo, scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.capabilities import PluginInfo


def default_engine(verb: str) -> str:
    """Return the engine that a request for *verb* names by default; empty if it names none."""
    from lepton_core import types

    request = getattr(types, f"{verb.capitalize()}Request")
    return next((str(one.default) for one in fields(request) if one.name == "engine"), "")


def doers(verb: str, target: TargetInfo, infos: Mapping[str, PluginInfo]) -> tuple[str, ...]:
    """Return which other plugins do a verb for a target.

    ``adapt`` is done by the plugin that reads the source; ``optimize``, ``deploy``, ``adjust`` and
    ``migrate`` by engines, of which the default one counts where it is installed.

    Args:
        verb: The verb.
        target: The target.
        infos: What all installed plugins declare.

    Returns:
        Plugin ids or names of engines; empty if nobody does.
    """
    able = [i for i in infos.values() if i.id != target.id and i.capability(verb).support]
    if verb == "adapt":
        return tuple(sorted(info.id for info in able if info.sources))
    if verb not in ("optimize", "deploy", "adjust", "migrate"):
        return ()
    engines = {i.engine for i in able if isinstance(i, ExtensionInfo) and i.engine}
    if verb == "optimize":
        engines &= set(recipe_precisions(target, infos))
    default = default_engine(verb)
    return (default,) if default in engines else tuple(sorted(engines))


def recipe_precisions(
    target: TargetInfo, infos: Mapping[str, PluginInfo]
) -> dict[str, tuple[str, ...]]:
    """Return the precisions that a target reaches by lowering an engine's recipes.

    Args:
        target: The target.
        infos: What all installed plugins declare.

    Returns:
        Precisions by engine; engines that make none for it are left out. What a conversion to the
        target makes by itself is not among them.
    """
    edges = (edge for info in infos.values() for edge in info.edges)
    own = {p for edge in edges if edge.result == target.artifact for p in edge.precisions}
    lowered = [
        precision
        for precision in target.offered
        if precision in BY_RECIPE
        and precision not in own
        and target.capability(scheme_of(precision)).support
    ]
    found = {}
    for info in infos.values():
        if not (isinstance(info, ExtensionInfo) and info.engine):
            continue
        if not info.capability("optimize").support:
            continue
        made = tuple(p for p in lowered if info.capability(f"precision.{p}").support)
        if made:
            found[info.engine] = made
    return found


__all__ = ["default_engine", "doers", "recipe_precisions"]
