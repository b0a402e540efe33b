"""Which plugins there are, what they say about themselves, and loading one on demand.

Names are listed from metadata, details import only the plugins' static ``info`` modules, and a
backend is imported when its plugin is the owner of a step. A plugin that cannot be used never
stops the others: the failure is kept as data, warned about once, and raised only when that
plugin is needed (or everywhere, with ``LEPTON_STRICT_PLUGINS=1``).

Environment: ``LEPTON_PLUGINS`` (comma-separated ids to allow, nothing else is seen; empty means
all), ``LEPTON_DISABLED_PLUGINS`` (ids to block), ``LEPTON_STRICT_PLUGINS``. Both lists act
before anything is imported.
"""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_core import _discovery
from lepton_core._plugin_checks import (
    check_backends,
    check_entry,
    check_hooks,
    check_info,
    classify_import_error,
)
from lepton_core.capabilities import ExtensionInfo, PluginInfo, TargetInfo
from lepton_core.catalogue import KNOWN
from lepton_core.errors import (
    PluginBrokenError,
    PluginConflictError,
    PluginError,
    PluginNotInstalledError,
    UnknownTargetError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pluggy

    from lepton_core._discovery import PluginEntry


class PluginWarning(UserWarning):
    """A plugin cannot be used; said once per plugin and process."""


@dataclass(slots=True)
class PluginRecord:
    """What the registry knows of one plugin id.

    Attributes:
        id: Plugin id.
        entry: Where it comes from; ``None`` for one registered in memory.
        kind: ``"target"`` or ``"extension"``.
        info: Its static description, once read.
        failure: Why it cannot be used, if it cannot.
        loaded: Whether its module is imported and registered.
    """

    id: str
    kind: str
    entry: PluginEntry | None = None
    info: PluginInfo | None = None
    failure: PluginError | None = None
    loaded: bool = False
    plugin: object | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Distribution and version, or "in memory"."""
        return str(self.entry) if self.entry else "in memory"

    @property
    def status(self) -> str:
        """``loaded``, ``available``, or the kind of failure."""
        if self.failure is not None:
            return type(self.failure).__name__.removeprefix("Plugin").removesuffix("Error").lower()
        return "loaded" if self.loaded else "available"


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


class Registry:
    """All plugins of one process.

    Args:
        environ: Environment to read the lists from; the process's own by default.
        entries: Declared plugins; found in the environment by default.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        entries: Iterable[PluginEntry] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._allowed = _names(environ.get("LEPTON_PLUGINS", ""))
        self._blocked = _names(environ.get("LEPTON_DISABLED_PLUGINS", ""))
        self._strict = environ.get("LEPTON_STRICT_PLUGINS", "") not in ("", "0")
        self._entries = None if entries is None else tuple(entries)
        self._hidden: dict[str, PluginEntry] = {}
        self._records: dict[str, PluginRecord] | None = None
        self._manager: pluggy.PluginManager | None = None
        self._lock = threading.RLock()
        self._warned: set[str] = set()

    # --- listing ------------------------------------------------------------------------------

    @property
    def records(self) -> dict[str, PluginRecord]:
        """Every known plugin by id; reading it imports nothing."""
        with self._lock:
            if self._records is None:
                self._records = self._list()
            return self._records

    def _is_visible(self, name: str) -> bool:
        return name not in self._blocked and (not self._allowed or name in self._allowed)

    def _list(self) -> dict[str, PluginRecord]:
        entries = _discovery.list_entries() if self._entries is None else self._entries
        records: dict[str, PluginRecord] = {}
        for entry in entries:
            if not self._is_visible(entry.name):
                self._hidden.setdefault(entry.name, entry)
                continue
            kind = "target" if entry.group == _discovery.TARGETS else "extension"
            if entry.name in records:
                self._conflict(records[entry.name], entry)
                continue
            records[entry.name] = PluginRecord(entry.name, kind, entry)
        return records

    def _conflict(self, record: PluginRecord, entry: PluginEntry) -> None:
        providers = [*record.failure.details["providers"]] if record.failure else [record.origin]
        providers.append(str(entry))
        listing = "\n".join(f"    - {provider}" for provider in providers)
        self._fail(
            record,
            PluginConflictError(
                "LPT-PLUG-006",
                f"The plugin name {entry.name!r} is claimed by {len(providers)} distributions",
                cause=f"provided by:\n{listing}",
                remedy="Uninstall all but one of them.",
                details={"providers": providers},
            ),
        )

    def is_blocked(self, name: str) -> bool:
        """Tell whether *name* is installed but hidden by the environment's lists."""
        return name not in self.records and name in self._hidden

    # --- details ------------------------------------------------------------------------------

    def info(self, name: str) -> PluginInfo:
        """Return the static description of a plugin; imports its ``info`` module only.

        Raises:
            PluginError: It is not installed or cannot be used; the subclass says why.
        """
        with self._lock:
            record = self.record(name)
            if record.failure is not None:
                # Raised again and again, it must not collect a frame each time.
                raise record.failure.with_traceback(None)
            if record.info is None:
                record.info = self._read_info(record)
            return record.info

    def _read_info(self, record: PluginRecord) -> PluginInfo:
        entry = record.entry
        if entry is None:
            msg = f"in-memory plugin {record.id!r} has lost its info"
            raise RuntimeError(msg)
        try:
            check_entry(entry)
            info = _discovery.import_info(entry).INFO
            check_info(info, entry, TargetInfo if record.kind == "target" else ExtensionInfo)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(record, classify_import_error(error, entry, "read its description"))
            raise record.failure from error  # type: ignore[misc]
        return info  # type: ignore[no-any-return]

    def record(self, name: str) -> PluginRecord:
        """Return the record of *name*.

        Raises:
            PluginNotInstalledError: Nothing of that name is installed or visible.
        """
        try:
            return self.records[name]
        except KeyError:
            raise self._missing(name) from None

    def _missing(self, name: str) -> PluginError:
        known = KNOWN.get(name)
        title = known.title if known else name
        if self.is_blocked(name):
            return PluginNotInstalledError(
                "LPT-PLUG-007",
                f"The plugin {name!r} ({self._hidden[name]}) is switched off by the environment",
                remedy="Change LEPTON_PLUGINS or LEPTON_DISABLED_PLUGINS.",
            )
        support = known.support.value if known else "unknown"
        return PluginNotInstalledError(
            "LPT-PLUG-001",
            f"No plugin for {title} ({name!r}) is installed; support: {support}",
            remedy=known.remedy if known else "`lepton plugins` lists what is installed.",
            details={"plugin": name, "support": support, "pip": known.pip if known else ""},
        )

    def infos(self, kind: str | None = None) -> dict[str, PluginInfo]:
        """Return the descriptions of all usable plugins; failures stay in the records.

        Raises:
            PluginError: With ``LEPTON_STRICT_PLUGINS=1``, what any plugin fails with.
        """
        found = {}
        for name, record in list(self.records.items()):
            if kind is not None and record.kind != kind:
                continue
            try:
                found[name] = self.info(name)
            except PluginError:
                if self._strict:
                    raise
        return found

    def targets(self) -> dict[str, TargetInfo]:
        """Return the descriptions of all usable targets."""
        return {n: i for n, i in self.infos("target").items() if isinstance(i, TargetInfo)}

    def target(self, name: str) -> TargetInfo:
        """Return one target's description.

        Raises:
            UnknownTargetError: No such target exists; suggests the nearest.
            PluginError: It exists but is not installed or cannot be used.
        """
        if self.is_blocked(name):
            raise self._missing(name)
        targets = [n for n, r in self.records.items() if r.kind == "target"]
        known = [k.id for k in KNOWN.values() if k.kind == "target"]
        if name not in targets and name not in known:
            raise unknown_target(name, sorted({*targets, *known}))
        info = self.info(name)
        if not isinstance(info, TargetInfo):
            raise unknown_target(name, sorted({*targets, *known}))
        return info

    def require(self, name: str) -> PluginInfo:
        """Return a plugin's description if the packages that it needs are there, too.

        Nothing is imported: versions are read from metadata.

        Raises:
            PluginError: It is not installed or cannot be used, or a package is missing or of a
                version that does not work.
        """
        info = self.info(name)
        check_backends(info)
        return info

    # --- loading ------------------------------------------------------------------------------

    @property
    def manager(self) -> pluggy.PluginManager:
        """The pluggy manager; private to :mod:`lepton_core.dispatch`."""
        with self._lock:
            if self._manager is None:
                import pluggy

                from lepton_core.hookspecs import LeptonSpecs
                from lepton_core.markers import PROJECT_NAME

                self._manager = pluggy.PluginManager(PROJECT_NAME)
                self._manager.add_hookspecs(LeptonSpecs)
            return self._manager

    def load(self, name: str) -> object:
        """Import a plugin and register its hooks; once.

        Raises:
            PluginError: It cannot be used; the subclass says why.
        """
        with self._lock:
            info = self.info(name)
            record = self.records[name]
            if record.plugin is None:
                entry = record.entry
                assert entry is not None, "in-memory plugins are registered with their object"  # noqa: S101
                try:
                    plugin = _discovery.load_plugin(entry)
                    self._register(plugin, info, record.origin)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self._fail(record, classify_import_error(error, entry, "load it", info))
                    raise record.failure from error  # type: ignore[misc]
                record.plugin, record.loaded = plugin, True
            return record.plugin

    def load_always(self) -> None:
        """Load the extensions that wrap or observe other plugins' steps."""
        for name, info in self.infos("extension").items():
            if isinstance(info, ExtensionInfo) and info.always and not self.records[name].loaded:
                try:
                    self.load(name)
                except PluginError:  # kept as data, warned about once
                    if self._strict:
                        raise

    def register(self, plugin: object, info: PluginInfo) -> None:
        """Register a plugin object of this process, for tests, notebooks and embedding.

        Raises:
            PluginConflictError: The id is taken.
            PluginBrokenError: Its hooks do not match the specifications.
        """
        with self._lock:
            if info.id in self.records:
                raise PluginConflictError(
                    "LPT-PLUG-006",
                    f"The plugin name {info.id!r} is already provided by "
                    f"{self.records[info.id].origin}",
                    remedy="Give the new one another id.",
                )
            self._register(plugin, info, "in memory")
            kind = "target" if isinstance(info, TargetInfo) else "extension"
            self.records[info.id] = PluginRecord(
                info.id, kind, info=info, loaded=True, plugin=plugin
            )

    def _register(self, plugin: object, info: PluginInfo, origin: str) -> None:
        import pluggy

        manager = self.manager
        try:
            manager.register(plugin, name=info.id)
            problem = check_hooks(manager, plugin, info)
        except pluggy.PluginValidationError as error:
            problem = str(error)
        if problem:
            if manager.has_plugin(info.id):
                manager.unregister(name=info.id)
            raise PluginBrokenError(
                "LPT-PLUG-004",
                f"The hooks of plugin {info.id!r} ({origin}) do not match the specifications",
                cause=problem,
                remedy="Compare them with docs/reference/hooks.md.",
            )

    def _fail(self, record: PluginRecord, error: PluginError) -> None:
        record.failure = error
        if self._strict:
            raise error
        if record.id not in self._warned:
            self._warned.add(record.id)
            warnings.warn(str(error), PluginWarning, stacklevel=3)


def unknown_target(name: str, candidates: list[str]) -> UnknownTargetError:
    """Return the error for a target that nobody knows, with the nearest names."""
    import difflib

    near = difflib.get_close_matches(name, candidates, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UnknownTargetError(
        "LPT-USE-003",
        f"There is no target {name!r}",
        cause=f"known targets: {', '.join(candidates) or 'none'}",
        remedy=f"{hint}`lepton targets` lists what each can do.",
        details={"target": name, "nearest": near, "known": candidates},
    )


__all__ = ["PluginRecord", "PluginWarning", "Registry", "unknown_target"]
