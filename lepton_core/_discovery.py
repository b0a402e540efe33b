"""Finding and loading plugins: the only module that knows entry points and stevedore.

Listing reads metadata through :mod:`importlib.metadata`, because stevedore's listing leaves
``ep.dist`` unset and resolves duplicate names silently to the last one; both must be known here.
Loading goes through stevedore. On its first load stevedore writes a small file per environment
into the user's cache folder (``python-entrypoints``).
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import ModuleType

TARGETS = "lepton.targets"
EXTENSIONS = "lepton.extensions"
GROUPS = (TARGETS, EXTENSIONS)


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """One entry point as its distribution declares it; nothing is imported to know it.

    Attributes:
        group: Entry point group.
        name: Plugin id.
        value: Module that holds the hook implementations (``"lepton_torch.plugin"``).
        distribution: Distribution that ships it.
        version: Its version.
        core_requirement: Its version specifier for lepton-core, ``""`` for any.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str
    core_requirement: str = ""

    @property
    def package(self) -> str:
        """The package that holds ``plugin`` and ``info``."""
        return self.value.partition(":")[0].rpartition(".")[0]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


_CORE = re.compile(r"lepton[-_.]+core\s*(?:\[[^\]]*\])?\s*(?![\w.\[-])(.*)", re.IGNORECASE)


def _core_requirement(distribution: metadata.Distribution) -> str:
    for line in distribution.requires or ():
        text, _, marker = line.partition(";")
        match = _CORE.fullmatch(text.strip())
        if match and "extra ==" not in marker:
            return match[1].strip(" ()")
    return ""


def list_entries() -> tuple[PluginEntry, ...]:
    """Return the declared plugins of all installed distributions, sorted by name.

    Imports nothing. Duplicate names stay in the list, each with its distribution. A distribution
    whose metadata cannot be read declares nothing.
    """
    found: dict[tuple[str, str, str], PluginEntry] = {}
    for dist in metadata.distributions():
        try:
            entries = _entries_of(dist)
        except Exception:  # noqa: S112 - any distribution in the environment may be damaged
            continue
        for entry in entries:
            # An editable install beside its source tree shows the same distribution twice.
            found.setdefault((entry.group, entry.name, entry.distribution), entry)
    return tuple(sorted(found.values(), key=lambda e: (e.name, e.distribution)))


def _entries_of(dist: metadata.Distribution) -> list[PluginEntry]:
    """Return the plugins of one distribution; reads the rest only if it declares any."""
    text = dist.read_text("entry_points.txt") or ""
    if not any(f"[{group}]" in text for group in GROUPS):
        return []
    facts = dist.metadata
    name = facts["Name"] if "Name" in facts else "unknown distribution"  # noqa: SIM401 - no .get in its protocol
    version = facts["Version"] if "Version" in facts else "?"  # noqa: SIM401
    requirement = _core_requirement(dist)
    return [
        PluginEntry(group, point.name, point.value, name, version, requirement)
        for group in GROUPS
        for point in dist.entry_points.select(group=group)
    ]


def import_info(entry: PluginEntry) -> ModuleType:
    """Import the plugin's static ``info`` module; whatever it raises comes through."""
    return importlib.import_module(f"{entry.package}.info")


def _reraise(_manager: object, _point: object, error: BaseException) -> NoReturn:
    raise error


def load_plugin(entry: PluginEntry) -> object:
    """Import one plugin module through stevedore; whatever it raises comes through."""
    from stevedore.named import NamedExtensionManager

    manager: NamedExtensionManager[object] = NamedExtensionManager(
        entry.group,
        [entry.name],
        on_load_failure_callback=_reraise,
        on_missing_entrypoints_callback=None,
    )
    for extension in manager:
        return extension.plugin
    # stevedore's cache has not noticed an environment that changed a moment ago.
    return importlib.import_module(entry.value.partition(":")[0])


__all__ = [
    "EXTENSIONS",
    "GROUPS",
    "TARGETS",
    "PluginEntry",
    "import_info",
    "list_entries",
    "load_plugin",
]
