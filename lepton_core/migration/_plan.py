"""The first step: what is there, what is to be built from what, and whether that is possible."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_core import codec, origins
from lepton_core._plugin_checks import check_backends
from lepton_core.errors import LeptonError, MigrateError, PlanError, UsageError
from lepton_core.types import ConvertRequest, Model, Target
from lepton_core.verdicts import precision_class

if TYPE_CHECKING:
    from lepton_core.capabilities import TargetInfo
    from lepton_core.dispatch import Hooks
    from lepton_core.recipe import Recipe
    from lepton_core.store import AliasState, Store, Version

DEPLOYMENT = "deployment"
"""Format of the model that stands for the deployment itself, when no source is given."""

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Plan:
    """What a migration will do.

    Attributes:
        state: Where the alias points.
        old: The version that it points to.
        target: The new target.
        precision: Precision of the old version, and so of the new one.
        recipe: The recipe that made the old version, if one did.
        source: What the new version is lowered from if the store does not have it.
    """

    state: AliasState
    old: Version
    target: Target
    precision: str
    recipe: Recipe | None
    source: Model | None

    @property
    def deployed(self) -> str:
        """What is to be moved, as commands take it."""
        return f"{self.state.name}@{self.state.alias}"


def plan(
    store: Store, hooks: Hooks, name: str, *, alias: str, target: str, given: Model | None
) -> Plan:
    """Find out whether a deployment can be moved to a target, before anything is built.

    Args:
        store: The store.
        hooks: Calls the plugins.
        name: Name of the deployment.
        alias: Its alias.
        target: Target string.
        given: What the deployment was built from, if the caller knows.

    Raises:
        UsageError: LPT-STORE-007, LPT-STORE-009 (no such deployment or alias), LPT-MIG-002 (it
            runs there already), LPT-USE-006 (no such device).
        PluginError: The target is not installed, or cannot be used here.
        MigrateError: LPT-MIG-003 (nothing to lower from), LPT-MIG-004 (compressed, and without
            its recipe), LPT-MIG-005 (the target does not lower such recipes).
        PlanError: The target cannot be built at this precision.
        StorageError: LPT-STORE-004, the version or its recipe is damaged.
    """
    from lepton_core.store._names import check_alias

    resolved = store.resolve(f"{name}@{check_alias(alias)}")
    old, parsed = resolved.version, Target.parse(target)
    if resolved.alias is None:
        msg = "an alias leads to its state"
        raise RuntimeError(msg)
    info = hooks.registry.target(parsed.id)
    _check_device(info, parsed)
    check_backends(info)
    if str(Target.parse(old.target)) == str(parsed):
        raise UsageError(
            "LPT-MIG-002",
            f"{name}@{alias} runs on {parsed} already",
            cause=f"its version {old.id} was built for {old.target}",
            remedy="Name another target; `lepton targets` lists them.",
        )
    recipe = _recipe(store, old)
    precision = _precision(old, recipe)
    if recipe is not None:
        _check_scheme(hooks, info, recipe)
    elif precision_class(precision) == "compressed":
        raise _no_recipe(name, old, precision)
    source = _source(store, hooks, old, parsed, given)
    model = source or _stored_origin(store, old) or old.model
    _check_path(hooks, model, parsed, precision, recipe)
    return Plan(resolved.alias, old, parsed, precision, recipe, source)


def _check_device(info: TargetInfo, target: Target) -> None:
    if target.device and info.devices and target.device not in info.devices:
        raise UsageError(
            "LPT-USE-006",
            f"{info.title} has no device {target.device!r}",
            cause=f"devices: {', '.join(info.devices)}",
            remedy=f"Write {target.id}, or {target.id}:{info.devices[0]}.",
        )


def _precision(old: Version, recipe: Recipe | None) -> str:
    stored = old.precision or str(old.model.metadata.get("precision", ""))
    return stored or (recipe.precision if recipe is not None else "fp32")


def _recipe(store: Store, old: Version) -> Recipe | None:
    """Return the recipe that is stored with a version, read from its checked bytes."""
    from lepton_core import recipe as recipes

    for file in old.role("recipe"):
        if file.path.endswith(".json"):
            what = f"the recipe of {old.id}"
            return recipes.loads(store.cas.read(file.digest, what).decode(), what)
    return None


def _stored_origin(store: Store, old: Version) -> Model | None:
    """Return what the stored origin of a version says of itself; its bytes are checked later."""
    for file in old.role(origins.ORIGIN):
        if file.path == f"{origins.ORIGIN}/{origins.INDEX}":
            data = json.loads(store.cas.read(file.digest, f"the origin of {old.id}"))
            return codec.from_data(data["model"], Model)
    return None


def _source(
    store: Store, hooks: Hooks, old: Version, target: Target, given: Model | None
) -> Model | None:
    """Return what to lower from where that is not the stored origin or the artifact itself.

    Raises:
        MigrateError: LPT-MIG-003, nothing is known.
    """
    if given is not None and given.format != DEPLOYMENT:
        return origins.find_origin(given) or given
    if _stored_origin(store, old) is not None or _leads(hooks, old.model, target):
        return None
    raise MigrateError(
        "LPT-MIG-003",
        f"{old.id} cannot be built for {target}: what it was lowered from is not known",
        cause=f"it was stored without its origin, and nothing leads from {old.model.format} "
        f"to {target}",
        remedy="Name what it was built from with --source MODEL; or deploy it again from where "
        "`lepton port` or `lepton convert` wrote it, which stores the origin with it.",
        details={"version": old.id, "format": old.model.format, "target": str(target)},
    )


def _leads(hooks: Hooks, model: Model, target: Target) -> bool:
    """Tell whether an artifact is itself something that the target can be built from."""
    try:
        return bool(hooks.plan(model, ConvertRequest(target.id)).steps)
    except PlanError:
        return False


def _check_scheme(hooks: Hooks, info: TargetInfo, recipe: Recipe) -> None:
    declared = info.capability(f"scheme.{recipe.scheme}")
    if declared.support:
        return
    able = [
        other.id
        for other in hooks.registry.infos().values()
        if getattr(other, "artifact", "") and other.capability(f"scheme.{recipe.scheme}").support
    ]
    raise MigrateError(
        "LPT-MIG-005",
        f"{info.title} does not lower recipes of the scheme {recipe.scheme}; "
        f"support: {declared.support.value}",
        cause=declared.note or None,
        remedy=f"Targets that do: {', '.join(sorted(able)) or 'none installed'}. Or build another "
        "variant with `lepton port`, and deploy that.",
        details={"scheme": recipe.scheme, "able": sorted(able)},
    )


def _no_recipe(name: str, old: Version, precision: str) -> MigrateError:
    return MigrateError(
        "LPT-MIG-004",
        f"{old.id} of {name} is {precision}, and its recipe is not stored",
        cause="without the recipe the new version would have other integers than the old one",
        remedy="Deploy it again from where `lepton port` or `lepton optimize` wrote it, with its "
        "recipe.json beside it; or pass --option recipe=FILE to `lepton deploy`.",
        details={"version": old.id, "precision": precision},
    )


def _check_path(
    hooks: Hooks, model: Model, target: Target, precision: str, recipe: Recipe | None
) -> None:
    request = ConvertRequest(target.id, recipe=RECIPE if recipe else None)
    if recipe is None:
        request = replace(request, precision=precision)
    try:
        hooks.plan(model, request)
    except PlanError as error:
        able = _possible(hooks, model, precision, recipe)
        raise PlanError(
            error.code,
            error.message,
            cause=error.cause,
            remedy=f"Possible from here: {', '.join(able) or 'nothing that is installed'}.",
            details={**error.details, "possible": able},
        ) from error


def _possible(hooks: Hooks, model: Model, precision: str, recipe: Recipe | None) -> list[str]:
    """Return the installed targets that the same thing can be built for."""
    found = []
    for info in hooks.registry.infos().values():
        artifact: Any = getattr(info, "artifact", "")
        if not artifact:
            continue
        request = ConvertRequest(info.id, precision=precision, recipe=RECIPE if recipe else None)
        try:
            hooks.plan(model, request)
            if recipe is None or info.capability(f"scheme.{recipe.scheme}").support:
                found.append(info.id)
        except LeptonError:
            continue
    return sorted(found)


__all__ = ["DEPLOYMENT", "RECIPE", "Plan", "plan"]
