"""``lepton targets``: from static descriptions only; no backend is imported."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core.capabilities import PluginInfo, Support, TargetInfo
from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.cli._app import App
    from lepton_core.errors import PluginError
    from lepton_core.registry import PluginRecord, Registry

VERBS = ("adapt", "convert", "optimize", "deploy", "adjust", "migrate", "open")
_READY, _MISSING = "ready", "backend missing"
_COLORS = {_READY: "green", _MISSING: "yellow", "not installed": "", "planned": ""}


@dataclass(frozen=True, slots=True)
class TargetState:
    """One line of the matrix.

    Attributes:
        id: Target id.
        title: Display name.
        status: ``ready``, ``backend missing``, ``not installed``, ``planned``, ``disabled``,
            ``broken``, ``incompatible`` or ``conflict``.
        why: Why it is not ready.
        fix: What to do about it.
        info: The target's description, if it could be read.
        origin: Distribution and version.
        others: Verbs that other plugins do for it, and which ones.
    """

    id: str
    title: str
    status: str
    why: str = ""
    fix: str = ""
    info: TargetInfo | None = None
    origin: str = ""
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        info = self.info
        return {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "why": self.why or None,
            "fix": self.fix or None,
            "origin": self.origin or None,
            "summary": info.summary if info else None,
            "artifact": info.artifact if info else None,
            "precisions": list(info.offered) if info else [],
            "devices": list(info.devices) if info else [],
            "platforms": list(info.platforms) if info else [],
            "verbs": verb_levels(info) if info else {},
            "by_others": {verb: list(names) for verb, names in self.others.items()},
        }


def verb_levels(info: PluginInfo) -> dict[str, str]:
    """Return the declared support level of every verb."""
    return {verb: info.capability(verb).support.value for verb in VERBS}


def target_states(registry: Registry) -> list[TargetState]:
    """Return the state of every installed and every known target, ready ones first."""
    from lepton_core.catalogue import KNOWN
    from lepton_core.errors import PluginError

    infos = {}
    for name in registry.records:
        with contextlib.suppress(PluginError):  # what is wrong stands in the table
            infos[name] = registry.info(name)
    states = [_installed(registry, r) for r in registry.records.values() if r.kind == "target"]
    states = [replace(s, others=_others(s.info, infos)) if s.info else s for s in states]
    present = {state.id for state in states}
    for known in KNOWN.values():
        if known.kind != "target" or known.id in present:
            continue
        if registry.is_blocked(known.id):
            fix = "Change LEPTON_PLUGINS or LEPTON_DISABLED_PLUGINS."
            states.append(TargetState(known.id, known.title, "disabled", fix=fix))
        elif known.support:
            states.append(TargetState(known.id, known.title, "not installed", fix=known.remedy))
        else:
            states.append(TargetState(known.id, known.title, "planned", why=known.remedy))
    order = (_READY, _MISSING, "broken", "incompatible", "conflict", "disabled", "not installed")
    rank = {status: number for number, status in enumerate(order)}
    return sorted(states, key=lambda s: (rank.get(s.status, len(rank)), s.id))


def _others(info: TargetInfo, infos: Mapping[str, PluginInfo]) -> dict[str, tuple[str, ...]]:
    """Return who does the verbs that a target's own plugin does not."""
    from lepton_core.engines import doers

    found = {v: doers(v, info, infos) for v in VERBS if not info.capability(v).support}
    return {verb: names for verb, names in found.items() if names}


def _installed(registry: Registry, record: PluginRecord) -> TargetState:
    from lepton_core._plugin_checks import check_backends
    from lepton_core.catalogue import KNOWN
    from lepton_core.errors import PluginDependencyError, PluginError

    title = KNOWN[record.id].title if record.id in KNOWN else record.id
    info: PluginInfo | None = None
    try:
        info = registry.info(record.id)
        title = info.title
        check_backends(info)
    except PluginError as error:
        missing = isinstance(error, PluginDependencyError)
        status = _MISSING if missing else _kind(error)
        known_info = info if isinstance(info, TargetInfo) else None
        return TargetState(
            record.id,
            title,
            status,
            why=_why(error),
            fix=error.remedy or "",
            info=known_info,
            origin=record.origin,
        )
    if not isinstance(info, TargetInfo):
        return TargetState(record.id, title, "broken", why="it describes no target")
    return TargetState(record.id, title, _READY, info=info, origin=record.origin)


def _kind(error: PluginError) -> str:
    from lepton_core.errors import PluginConflictError, PluginVersionError

    if isinstance(error, PluginVersionError):
        return "incompatible"
    return "conflict" if isinstance(error, PluginConflictError) else "broken"


def _why(error: PluginError) -> str:
    cause = " ".join((error.cause or "").split())
    return f"{error.message} ({cause})" if cause else error.message


@command(
    "targets",
    examples="""
    lepton targets
    lepton targets --ready
    lepton targets --json
    """,
)
@option("--ready", is_flag=True, show_default=False, help="Only those that can be used now.")
def targets_command(app: App, *, ready: bool) -> int:
    """List targets, their state and abilities.

    Known targets that are not installed are listed with the line that installs them. Nothing of
    a target's runtime is imported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # failures stand in the table
        states = target_states(app.registry())
    if ready:
        states = [state for state in states if state.status == _READY]
    if app.json:
        app.emit({"ok": True, "targets": [state.to_dict() for state in states]})
        return 0
    app.table(
        (
            Column("target", whole=True),
            Column("title"),
            Column("status", whole=True),
            Column("artifact", whole=True),
            Column("precisions"),
            Column("verbs"),
            Column("devices"),
        ),
        [_row(state) for state in states],
    )
    remarks = [s for s in states if s.status not in (_READY, "planned")]
    if remarks:
        app.line()
    for state in remarks:
        app.line(f"{state.id}: {'; '.join(filter(None, (state.why, state.fix)))}")
    return 0


def _row(state: TargetState) -> Row:
    info = state.info
    dim = state.status not in (_READY, _MISSING)
    return Row(
        (
            state.id,
            state.title,
            state.status,
            info.artifact if info else "",
            ", ".join(info.offered) if info else "",
            _verbs_text(info, state.others) if info else "",
            ", ".join(info.devices) if info else "",
        ),
        "dim" if dim else "",
        ((2, _COLORS.get(state.status, "red")),),
    )


def _verbs_text(info: TargetInfo, others: Mapping[str, tuple[str, ...]]) -> str:
    """Return the verbs by who does them, and then those that nobody does.

    Such as ``convert, open; optimize by compress; deploy, adjust by embedded; no: migrate``.
    """
    own: list[str] = []
    by: dict[str, list[str]] = {}
    heads: dict[str, list[str]] = {"not yet": [], "not installed": [], "no": []}
    for verb in VERBS:
        declared = info.capability(verb)
        if declared.support:
            own.append(verb + (f" ({declared.versions})" if declared.versions else ""))
        elif verb in others:
            by.setdefault(" or ".join(others[verb]), []).append(verb)
        elif missing := _missing(verb, info):
            heads["not installed"].append(f"{verb} by {missing}")
        elif declared.support is Support.NOT_IMPLEMENTED:
            heads["not yet"].append(verb)
        elif declared.support is Support.UNSUPPORTED:
            heads["no"].append(verb)
    parts = [", ".join(own)] if own else []
    parts += [f"{', '.join(verbs)} by {name}" for name, verbs in by.items()]
    parts += [f"{head}: {', '.join(verbs)}" for head, verbs in heads.items() if verbs]
    return "; ".join(parts)


def _missing(verb: str, info: TargetInfo) -> str:
    """Return who would do a verb for this target if it were installed; empty if nobody would."""
    from lepton_core.capabilities import BY_RECIPE
    from lepton_core.engines import default_engine

    if verb == "adapt":
        return "a plugin that reads the source"
    lowers = bool(set(BY_RECIPE) & set(info.offered))
    return default_engine(verb) if verb == "optimize" and lowers else ""


__all__ = ["VERBS", "TargetState", "target_states", "targets_command", "verb_levels"]
