"""``lepton plugins``: what is installed, and why anything of it cannot be used."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._targets import verb_levels

if TYPE_CHECKING:
    from lepton_core.capabilities import PluginInfo
    from lepton_core.cli._app import App
    from lepton_core.errors import PluginError
    from lepton_core.registry import Registry


@dataclass(frozen=True, slots=True)
class PluginState:
    """One installed plugin.

    Attributes:
        id: Plugin id.
        kind: ``"target"`` or ``"extension"``.
        origin: Distribution and version.
        distribution: Its distribution.
        version: Its version.
        status: ``"ok"`` or the kind of failure.
        info: Its description, if it could be read.
        failure: Why it cannot be used.
    """

    id: str
    kind: str
    origin: str
    distribution: str | None
    version: str | None
    status: str
    info: PluginInfo | None
    failure: PluginError | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.info.title if self.info else None,
            "distribution": self.distribution,
            "version": self.version,
            "status": self.status,
            "verbs": verb_levels(self.info) if self.info else {},
            "sources": [s.id for s in self.info.sources] if self.info else [],
            "failure": self.failure.to_dict() if self.failure else None,
        }


def plugin_states(registry: Registry, *, load: bool = True) -> list[PluginState]:
    """Return the state of every installed plugin.

    Args:
        registry: Plugins.
        load: Import each plugin's module, as using it would; backends are not imported.
    """
    from lepton_core._plugin_checks import check_backends
    from lepton_core.errors import PluginError

    states = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # failures stand in the result
        for record in registry.records.values():
            info: PluginInfo | None = None
            failure: PluginError | None = None
            status = "ok"
            try:
                info = registry.info(record.id)
                if load and not record.loaded:
                    registry.load(record.id)
                check_backends(info)
            except PluginError as error:
                failure = error
                name = type(error).__name__
                status = name.removeprefix("Plugin").removesuffix("Error").lower()
            states.append(
                PluginState(
                    record.id,
                    record.kind,
                    record.origin,
                    record.entry.distribution if record.entry else None,
                    record.entry.version if record.entry else None,
                    status,
                    info,
                    failure,
                )
            )
    return states


def tolerant_registry(app: App) -> Registry:
    """Return the process's registry; with strict plugins, one that reports instead of raising."""
    if os.environ.get("LEPTON_STRICT_PLUGINS", "") in ("", "0"):
        return app.registry()
    from lepton_core.registry import Registry

    return Registry(environ={**os.environ, "LEPTON_STRICT_PLUGINS": ""})


@command(
    "plugins",
    examples="""
    lepton plugins
    lepton plugins --json
    """,
)
@option(
    "--no-load",
    is_flag=True,
    show_default=False,
    help="Read descriptions only, without importing the plugins.",
)
def plugins_command(app: App, *, no_load: bool) -> int:
    """List installed plugins and why any fails.

    Each plugin's module is imported, as using it would; the runtimes behind them are not.
    """
    states = plugin_states(tolerant_registry(app), load=not no_load)
    if app.json:
        app.emit({"ok": True, "plugins": [state.to_dict() for state in states]})
        return 0
    if not states:
        app.line("No plugins are installed. `lepton targets` says what there is.")
        return 0
    columns = [Column(t, whole=t == "id") for t in ("id", "kind", "from", "status", "does")]
    app.table(columns, [_row(state) for state in states])
    for state in states:
        if state.failure is not None:
            app.line(f"{state.id}: {failure_text(state.failure)}")
    return 0


def failure_text(failure: PluginError) -> str:
    """Return a failure in one line: code, what, why, remedy."""
    parts = (f"{failure.code}: {failure.message}", failure.cause, failure.remedy)
    return "; ".join(" ".join(part.split()) for part in parts if part)


def _row(state: PluginState) -> Row:
    does = []
    if state.info is not None:
        does = [v for v, level in verb_levels(state.info).items() if level in ("full", "versioned")]
        does += [f"reads {source.title}" for source in state.info.sources]
    color = "green" if state.status == "ok" else "red"
    return Row(
        (state.id, state.kind, state.origin, state.status, ", ".join(does)), "", ((3, color),)
    )


__all__ = ["PluginState", "failure_text", "plugin_states", "plugins_command", "tolerant_registry"]
