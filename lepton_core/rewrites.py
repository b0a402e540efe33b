"""Which rewrites there are, and which of them a target needs, judged from declared data.

Plugins declare rewrites in their ``INFO`` (:class:`.capabilities.Rewrite`), so listing them
imports no framework. The plugin that owns a format runs them (``lepton_adapt``).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lepton_core.errors import PluginConflictError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lepton_core.capabilities import Constraints, Rewrite
    from lepton_core.registry import Registry
    from lepton_core.types import AdaptRequest, OperatorUse, Signature


@dataclass(frozen=True, slots=True)
class Offer:
    """A rewrite and the plugin that brings it.

    Attributes:
        rewrite: What it is.
        plugin: Id of the plugin.
        distribution: The distribution that ships the plugin.
    """

    rewrite: Rewrite
    plugin: str
    distribution: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A declared constraint that a model breaks.

    Attributes:
        reason: What is broken, with the place in the source if it is known.
        rewrites: Names of the rewrites that may cure it, in the order they are tried.
        shapes: Whether it is about the sizes of dimensions, which any owner of a format may fix.
    """

    reason: str
    rewrites: tuple[str, ...]
    shapes: bool = False


def offers(registry: Registry, format_id: str | None = None) -> tuple[Offer, ...]:
    """Return the rewrites that usable plugins bring, in the order in which they are run.

    Those of the plugin that owns the format come first, each plugin's in its own order.

    Args:
        registry: Plugins.
        format_id: Only those that work on this format; all if ``None``.

    Raises:
        PluginConflictError: LPT-ADAPT-002, two plugins bring rewrites of one name.
    """
    found: dict[str, Offer] = {}
    infos = registry.infos()
    owners = [n for n, i in infos.items() if any(s.id == format_id for s in i.sources)]
    for name in sorted(infos, key=lambda n: (n not in owners, n)):
        for rewrite in infos[name].rewrites:
            if format_id is not None and format_id not in rewrite.formats:
                continue
            offer = Offer(rewrite, name, infos[name].distribution)
            other = found.setdefault(rewrite.name, offer)
            if other.plugin != name:
                raise PluginConflictError(
                    "LPT-ADAPT-002",
                    f"Two plugins bring a rewrite called {rewrite.name!r}",
                    cause=f"{other.plugin} ({other.distribution}), {name} ({offer.distribution})",
                    remedy="Switch one of them off with LEPTON_DISABLED_PLUGINS.",
                )
    return tuple(found.values())


def check_names(names: Sequence[str], format_id: str, registry: Registry) -> None:
    """Make sure that every named rewrite exists and works on a format.

    Raises:
        UsageError: LPT-ADAPT-001, one does not; suggests the nearest.
        PluginConflictError: Two plugins bring rewrites of one name.
    """
    if not names:
        return
    known = [offer.rewrite.name for offer in offers(registry, format_id)]
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        elsewhere = [o.rewrite for o in offers(registry) if o.rewrite.name == name]
        only = f"; {name} works on {', '.join(elsewhere[0].formats)}" if elsewhere else ""
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            "LPT-ADAPT-001",
            f"There is no rewrite {name!r} for a model of the format {format_id!r}",
            cause=f"rewrites for it: {', '.join(known) or 'none'}{only}",
            remedy=f"{hint}`lepton rewrites` says what each does.",
            details={"rewrite": name, "nearest": near, "known": known},
        )


def completed(request: AdaptRequest, format_id: str, registry: Registry) -> AdaptRequest:
    """Return the request with the target's declared constraints filled in.

    They travel with the request, so that the owner of the format needs to know no target.

    Raises:
        PluginError: The target cannot be used.
        UsageError: LPT-ADAPT-001, a rewrite is named that nobody brings.
    """
    target = registry.target(request.target)
    check_names(request.rewrites, format_id, registry)
    if request.constraints is not None:
        return request
    return replace(request, constraints=target.constraints)


def matches(operator: str, pattern: str) -> bool:
    """Tell whether an operator is meant by a name in ``forbidden_ops`` or ``removes``.

    ONNX's ``"ai.onnx::If"`` is meant by ``"If"`` and by itself; torch's
    ``"aten.hardswish_.default"`` by ``"aten.hardswish"`` (in place or not, any overload) and by
    itself.
    """
    name, wanted = operator.rpartition(":")[2], pattern.rpartition(":")[2]
    if name == wanted:
        return True
    parts = name.split(".")
    return len(parts) >= 2 and f"{parts[0]}.{parts[1].rstrip('_')}" == wanted


def is_forbidden(operator: str, constraints: Constraints) -> bool:
    """Tell whether a target forbids an operator."""
    return any(matches(operator, name) for name in constraints.forbidden_ops)


def cures(operator: str, offered: Iterable[Rewrite]) -> tuple[str, ...]:
    """Return the names of the rewrites that remove an operator."""
    return tuple(r.name for r in offered if any(matches(operator, name) for name in r.removes))


def broken_constraints(
    operators: Iterable[OperatorUse],
    signature: Signature | None,
    constraints: Constraints,
    offered: Sequence[Rewrite],
) -> tuple[Broken, ...]:
    """Return what a model breaks of a target's constraints, with what may cure it.

    Args:
        operators: Operators in use.
        signature: Inputs and outputs, if known.
        constraints: What the target declares.
        offered: Rewrites for this kind of model.
    """
    found = []
    tensors = (*signature.inputs, *signature.outputs) if signature else ()
    loose = [t for t in tensors if any(not isinstance(dim, int) for dim in t.shape)]
    if constraints.static_shapes and loose:
        fixing = tuple(r.name for r in offered if r.fixes_shapes)
        listed = ", ".join(map(str, loose))
        found.append(Broken(f"fixed shapes are wanted; open: {listed}", fixing, shapes=True))
    for use in operators:
        if is_forbidden(use.name, constraints):
            place = f", first at {use.where}" if use.where else ""
            times = "once" if use.count == 1 else f"{use.count} times"
            reason = f"{use.name} cannot be run; it is used {times}{place}"
            found.append(Broken(reason, cures(use.name, offered)))
    return tuple(found)


def when(rewrite: Rewrite) -> str:
    """Say in words when a rewrite is done without being named."""
    if rewrite.fixes_shapes:
        return "where sizes are given, or the target takes static shapes only"
    if rewrite.standard:
        return "for every target"
    if rewrite.removes:
        return f"where the target forbids {', '.join(rewrite.removes)}"
    return "where the target wants it by name"


def asked_by(rewrite: Rewrite, constraints: Constraints) -> str:
    """Say why a target with these constraints asks for a rewrite, or return an empty text."""
    if rewrite.name in constraints.rewrites:
        return "wanted by name"
    if rewrite.fixes_shapes:
        return "static shapes only" if constraints.static_shapes else ""
    forbidden = [
        name
        for name in rewrite.removes
        if any(matches(name, f) or matches(f, name) for f in constraints.forbidden_ops)
    ]
    if forbidden:
        return f"forbids {', '.join(forbidden)}"
    return "done for every target" if rewrite.standard else ""


def may_apply(constraints: Constraints, offered: Iterable[Rewrite], *, symbolic: bool) -> bool:
    """Tell whether a target may ask for any rewrite at all; nothing of the model is read.

    Args:
        constraints: What the target declares.
        offered: Rewrites for this kind of model.
        symbolic: Whether the model has symbolic dimensions.
    """
    return any(
        bool(asked_by(rewrite, constraints)) and (symbolic or not rewrite.fixes_shapes)
        for rewrite in offered
        if not rewrite.standard or asked_by(replace(rewrite, standard=False), constraints)
    )


__all__ = [
    "Broken",
    "Offer",
    "asked_by",
    "broken_constraints",
    "check_names",
    "completed",
    "cures",
    "is_forbidden",
    "matches",
    "may_apply",
    "offers",
    "when",
]
