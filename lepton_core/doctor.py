"""A check-up of this environment: what is there, what is wrong, and the exact way to repair it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import environment
from lepton_core.errors import LeptonError, PluginNotInstalledError
from lepton_core.installing import install_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_core.capabilities import PluginInfo
    from lepton_core.registry import Registry

OK, INFO, WARNING, PROBLEM = "ok", "info", "warning", "problem"
_LITTLE_SPACE = 1 << 30
_WORKER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was checked.
        status: ``"ok"``, ``"info"``, ``"warning"`` or ``"problem"``.
        detail: What was found.
        fix: What to run or do, if something is wrong.
    """

    check: str
    status: str
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and the facts about the machine."""

    findings: tuple[Finding, ...]
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no problem; warnings do not count."""
        return all(f.status != PROBLEM for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        checks = [
            {"check": f.check, "status": f.status, "detail": f.detail, "fix": f.fix or None}
            for f in self.findings
        ]
        return {"schema": 1, "ok": self.ok, "environment": self.environment, "checks": checks}


def diagnose(registry: Registry, *, worker: bool = True) -> Diagnosis:
    """Look at everything that lepton needs; raises nothing itself.

    Args:
        registry: Plugins to look at; each is loaded, as using it would.
        worker: Whether to start a worker process.
    """
    infos, plugins = _plugins(registry)
    checks: list[Callable[[], Iterator[Finding]]] = [
        _machine,
        _core,
        _kernels,
        lambda: iter(plugins),
        lambda: _rivals(infos),
        lambda: _requirements(infos),
        _duplicates,
        _directories,
    ]
    if worker:
        checks.append(_worker)
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # a check that fails is a finding, not the end of the rest
            findings.append(
                Finding(
                    getattr(check, "__name__", "check").strip("_<>"),
                    PROBLEM,
                    f"could not be checked: {type(error).__name__}: {error}",
                    "Report this with the text above.",
                )
            )
    return Diagnosis(tuple(findings), environment.describe())


# --- machine and core -------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    facts = environment.describe()
    yield Finding("python", OK, f"{facts['python']} at {sys.executable}")
    yield Finding("system", INFO, f"{facts['os']}, {facts['machine']}")
    features = ", ".join(environment.cpu_features()) or "instruction sets not known"
    yield Finding("cpu", INFO, f"{facts['cpu']} ({features})")
    quota = environment.cgroup_cpus()
    limit = "" if quota is None else f", container limit {quota:g} cores"
    yield Finding("cpus", INFO, f"{environment.available_cpus()} of {os.cpu_count()} usable{limit}")
    yield _memory()


def _memory() -> Finding:
    import psutil

    total, limit = psutil.virtual_memory().total, environment.cgroup_memory()
    free = psutil.virtual_memory().available
    gib = 1 << 30
    text = f"{total / gib:.1f} GiB, {free / gib:.1f} GiB available"
    if limit is not None:
        text += f", container limit {limit / gib:.1f} GiB"
    return Finding("memory", INFO, text)


def _core() -> Iterator[Finding]:
    from lepton_core._version import SPEC_VERSION, __version__

    installed = environment.version_of("lepton-core")
    if installed is None:
        yield Finding(
            "lepton-core",
            WARNING,
            f"{__version__} is imported from {Path(__file__).parent}, but not installed",
            install_command("lepton-core"),
        )
    elif installed != __version__:
        yield Finding(
            "lepton-core",
            PROBLEM,
            f"{__version__} is imported, {installed} is installed",
            install_command("lepton-core", "--force-reinstall"),
        )
    else:
        yield Finding("lepton-core", OK, f"{__version__} (hooks version {SPEC_VERSION})")


def _kernels() -> Iterator[Finding]:
    try:
        import lepton_kernels
    except ImportError as error:
        yield Finding(
            "kernels",
            PROBLEM,
            f"lepton-kernels cannot be imported: {error}",
            install_command("lepton-kernels", "--force-reinstall"),
        )
        return
    yield Finding(
        "kernels",
        OK,
        f"{lepton_kernels.__version__}, SIMD path {lepton_kernels.simd_level()}, "
        f"{lepton_kernels.available_threads()} threads",
    )


# --- plugins ----------------------------------------------------------------------------------


def _plugins(registry: Registry) -> tuple[dict[str, PluginInfo], list[Finding]]:
    from lepton_core.cli._plugins import plugin_states

    infos, findings = {}, []
    for state in plugin_states(registry):
        if state.info is not None:
            infos[state.id] = state.info
        if state.failure is None:
            findings.append(Finding(f"plugin {state.id}", OK, state.origin))
            continue
        cause = " ".join((state.failure.cause or "").split())
        detail = f"{state.failure.message}" + (f" ({cause})" if cause else "")
        findings.append(Finding(f"plugin {state.id}", PROBLEM, detail, state.failure.remedy or ""))
    if not findings:
        findings.append(
            Finding(
                "plugins",
                WARNING,
                "none is installed, so nothing can be read or built",
                install_command("lepton-onnxruntime[cpu]"),
            )
        )
    return infos, findings


def _rivals(infos: dict[str, PluginInfo]) -> Iterator[Finding]:
    """Distributions that install the same module overwrite each other's files."""
    for info in infos.values():
        for backend in info.backends:
            found = environment.versions_of(*backend.distributions)
            if len(found) > 1:
                names = " and ".join(found)
                yield Finding(
                    f"rivals of {backend.module}",
                    PROBLEM,
                    f"{names} are both installed and both provide {backend.module!r}; "
                    "one has overwritten the other",
                    f"pip uninstall -y {' '.join(found)} && {install_command(next(iter(found)))}",
                )


def _requirements(infos: dict[str, PluginInfo]) -> Iterator[Finding]:
    """Check what core, plugins and their backends ask for in their own metadata."""
    names = {"lepton-core", "lepton-kernels"}
    for info in infos.values():
        names.add(info.distribution)
        names.update(n for backend in info.backends for n in backend.distributions)
    wrong = 0
    for name in sorted(names):
        try:
            wanted = metadata.distribution(name).requires or ()
        except metadata.PackageNotFoundError:
            continue
        for text in wanted:
            finding = _unmet(name, text)
            if finding is not None:
                wrong += 1
                yield finding
    if not wrong:
        yield Finding("requirements", OK, "core, plugins and backends have what they ask for")


def _unmet(name: str, text: str) -> Finding | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    found = environment.version_of(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return None
    have = f"{found} is installed" if found else "it is not installed"
    return Finding(
        f"requirement of {name}",
        PROBLEM,
        f"{name} needs {wanted}; {have}",
        install_command(wanted),
    )


def _duplicates() -> Iterator[Finding]:
    """Two metadata folders of one distribution in one place are what a broken upgrade leaves."""
    places: dict[tuple[str, Path], list[str]] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name:
            continue
        plain = re.sub(r"[-_.]+", "-", name).lower()
        folder = Path(str(distribution.locate_file(""))).resolve()
        places.setdefault((plain, folder), []).append(distribution.version)
    count = 0
    for (name, folder), versions in sorted(places.items()):
        if len(set(versions)) > 1:
            count += 1
            yield Finding(
                "duplicate distribution",
                PROBLEM,
                f"{name} is there {len(versions)} times in {folder}: {', '.join(sorted(versions))}",
                f"pip uninstall -y {name}, again until none is left; then {install_command(name)}",
            )
    if not count:
        yield Finding("distributions", OK, f"{len(places)}, none twice")


# --- places and processes ---------------------------------------------------------------------


def _directories() -> Iterator[Finding]:
    import platformdirs

    places = {
        "temporary directory": (Path(tempfile.gettempdir()), "TMPDIR"),
        "cache directory": (Path(platformdirs.user_cache_dir("lepton")), "XDG_CACHE_HOME"),
        "working directory": (Path.cwd(), ""),
    }
    for name, (place, variable) in places.items():
        yield _writable(name, place, variable)


def _writable(name: str, place: Path, variable: str) -> Finding:
    """Write a file for real; permission bits alone do not tell about quotas and mounts."""
    parent = next(p for p in (place, *place.parents) if p.is_dir())
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(b"lepton")
            file.flush()
    except OSError as error:
        elsewhere = f", or point {variable} elsewhere" if variable else ""
        return Finding(
            name,
            WARNING if not variable else PROBLEM,
            f"{place} cannot be written: {error.strerror or error}",
            f"Make it writable (chmod u+w {parent}){elsewhere}.",
        )
    free = shutil.disk_usage(parent).free
    text = f"{place}, {free / (1 << 30):.1f} GiB free"
    if free < _LITTLE_SPACE:
        return Finding(name, WARNING, text, f"Free space on the disk of {parent}.")
    return Finding(name, OK, text)


def _worker() -> Iterator[Finding]:
    """Start a worker for real and have it answer; it must say that it knows no such plugin."""
    from lepton_core.context import Context
    from lepton_core.types import InspectRequest, Limits, Model
    from lepton_core.workers import WorkerPool

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lepton-doctor-") as workdir, WorkerPool() as pool:
        context = Context(Path(workdir), limits=Limits(seconds=_WORKER_SECONDS))
        try:
            pool.call("inspect", "doctor's-question", Model("none", ""), InspectRequest(), context)
        except PluginNotInstalledError:
            yield Finding("worker", OK, f"started and answered in {time.monotonic() - began:.2f} s")
            return
        except LeptonError as error:
            cause = (error.cause or "").strip().splitlines()
            yield Finding(
                "worker",
                PROBLEM,
                f"{error.message}" + (f" ({cause[-1]})" if cause else ""),
                f"Run `{sys.executable} -m lepton_core.workers.child` and see what it says.",
            )
            return
    yield Finding("worker", PROBLEM, "it answered a question that has no answer", "Report this.")


__all__ = ["Diagnosis", "Finding", "diagnose"]
