"""Telling apart the ways in which a plugin can be unusable."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lepton_core._version import SPEC_VERSION, __version__
from lepton_core.capabilities import ExtensionInfo
from lepton_core.catalogue import KNOWN
from lepton_core.environment import versions_of
from lepton_core.errors import (
    PluginBrokenError,
    PluginDependencyError,
    PluginError,
    PluginVersionError,
)
from lepton_core.installing import install_command

if TYPE_CHECKING:
    import pluggy

    from lepton_core._discovery import PluginEntry
    from lepton_core.capabilities import Backend, PluginInfo


def check_entry(entry: PluginEntry) -> None:
    """Check the distribution's metadata before anything of it is imported.

    Raises:
        PluginVersionError: It asks for another version of lepton-core.
        PluginBrokenError: The entry point does not follow the convention.
    """
    if not re.fullmatch(r"\w+(\.\w+)*\.plugin", entry.value):
        raise PluginBrokenError(
            "LPT-PLUG-004",
            f"{entry} declares {entry.name!r} as {entry.value!r}",
            cause="An entry point must name the module <package>.plugin, with <package>.info "
            "beside it.",
            remedy=f"Report this to the makers of {entry.distribution}.",
        )
    if not entry.core_requirement:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        wanted = SpecifierSet(entry.core_requirement)
    except InvalidSpecifier:
        return
    if not wanted.contains(__version__, prereleases=True):
        raise PluginVersionError(
            "LPT-PLUG-005",
            f"{entry} wants lepton-core {entry.core_requirement}; this is {__version__}",
            remedy=f"Install a version of {entry.distribution} that fits, or "
            + install_command("lepton-core", "--upgrade"),
        )


def check_info(info: object, entry: PluginEntry, kind: type[PluginInfo]) -> None:
    """Check that a plugin's description is of the right kind and contract.

    Raises:
        PluginBrokenError: It is no description, or one of another plugin.
        PluginVersionError: It was written for a newer hook contract.
    """
    if not isinstance(info, kind):
        raise PluginBrokenError(
            "LPT-PLUG-004",
            f"{entry} has a {type(info).__name__} as {entry.package}.info.INFO, "
            f"expected a {kind.__name__}",
            remedy=f"Report this to the makers of {entry.distribution}.",
        )
    if info.spec_version > SPEC_VERSION:
        raise PluginVersionError(
            "LPT-PLUG-005",
            f"{entry} is written for version {info.spec_version} of the hooks; "
            f"this lepton-core has version {SPEC_VERSION}",
            remedy=install_command("lepton-core", "--upgrade"),
        )
    if info.id != entry.name:
        raise PluginBrokenError(
            "LPT-PLUG-004",
            f"{entry} is installed as {entry.name!r} but calls itself {info.id!r}",
            remedy=f"Report this to the makers of {entry.distribution}.",
        )


def check_hooks(manager: pluggy.PluginManager, plugin: object, info: PluginInfo) -> str:
    """Return what is wrong with a plugin's registered hooks, empty if nothing is.

    Wrappers and observers apply to other plugins' steps, so they must be known before the first
    step runs and not only once their plugin happens to be loaded.
    """
    import pluggy

    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        return str(error)
    if isinstance(info, ExtensionInfo) and info.always:
        return ""
    for caller in manager.get_hookcallers(plugin) or ():
        for impl in caller.get_hookimpls():
            if impl.plugin is not plugin:
                continue
            if impl.wrapper or impl.hookwrapper or caller.name.startswith("lepton_stage_"):
                return (
                    f"{caller.name} wraps or observes other plugins' steps; only an extension "
                    "whose info says always=True may do that"
                )
    return ""


def _pip_for(module: str, entry: PluginEntry, info: PluginInfo | None) -> str:
    backends: tuple[Backend, ...] = info.backends if info else ()
    for backend in backends:
        if backend.module == module and backend.pip:
            return backend.pip
    known = KNOWN.get(entry.name)
    return known.pip if known and known.pip.startswith(entry.distribution) else module


def _is_there(package: str) -> bool:
    """Say whether a package can be imported, so that what is missing is a module of it.

    A namespace, which several distributions share, has no file of its own and does not count: the
    part that is missing belongs to a distribution that is not installed.
    """
    try:
        spec = find_spec(package)
    except ValueError:  # a module that was put together by hand, or no name at all
        return package in sys.modules
    return spec is not None and spec.origin is not None


def classify_import_error(
    error: BaseException, entry: PluginEntry, what: str, info: PluginInfo | None = None
) -> PluginError:
    """Return the :class:`PluginError` that says in which way *entry* is unusable.

    Args:
        error: What was raised while importing or registering.
        entry: The plugin.
        what: What was tried, for the message.
        info: Its description, if that could be read.
    """
    if isinstance(error, PluginError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if missing != entry.package.partition(".")[0] and not _is_there(missing):
            pip = _pip_for(missing, entry, info)
            return PluginDependencyError(
                "LPT-PLUG-002",
                f"{entry} is installed, but the package {missing!r} that it needs is not",
                cause=str(error),
                remedy=install_command(pip),
                details={"plugin": entry.name, "missing": missing, "pip": pip},
            )
    return PluginBrokenError(
        "LPT-PLUG-003",
        f"{entry} is installed but broken: lepton could not {what}",
        cause=f"{type(error).__name__}: {error}",
        remedy=f"Reinstall {entry.distribution}, or switch it off with "
        f"LEPTON_DISABLED_PLUGINS={entry.name}.",
        details={"plugin": entry.name, "exception": type(error).__name__},
    )


def check_backends(info: PluginInfo) -> None:
    """Check, from metadata alone, that the packages a plugin needs are there.

    Raises:
        PluginDependencyError: One is missing or of a version that does not work.
    """
    for wanted in info.backends:
        backend = _present(wanted)
        found = versions_of(*backend.distributions)
        if not found:
            raise PluginDependencyError(
                "LPT-PLUG-002",
                f"{info.title} needs the package {backend.distributions[0]!r}, "
                "which is not installed",
                remedy=install_command(backend.pip or backend.distributions[0]),
                details={"plugin": info.id, "missing": backend.module, "pip": backend.pip},
            )
        if not backend.specifier:
            continue
        from packaging.specifiers import SpecifierSet

        versions = SpecifierSet(backend.specifier)
        name, version = next(iter(found.items()))
        if not versions.contains(version, prereleases=True):
            raise PluginDependencyError(
                "LPT-PLUG-002",
                f"{info.title} works with {name} {backend.specifier}; {version} is installed",
                remedy=install_command(f"{name}{backend.specifier}"),
                details={"plugin": info.id, "package": name, "version": version},
            )


def _present(backend: Backend) -> Backend:
    """Return the first of a backend and its fallbacks that is installed; itself if none is."""
    choices = (backend, *backend.fallbacks)
    return next((one for one in choices if versions_of(*one.distributions)), backend)


__all__ = ["check_backends", "check_entry", "check_hooks", "check_info", "classify_import_error"]
