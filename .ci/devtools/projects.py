"""The first-party distributions of this tree, read from their pyproject.toml files."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from devtools.console import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
TOOLS = ROOT / ".ci" / "requirements.txt"

# Names under this prefix are ours: they are taken from this tree and never asked of an index.
FIRST_PARTY_PREFIX = "lepton-"

_IGNORED_FOLDERS = {"__pycache__", ".venv", ".git"}
# Not part of the compiled module: a change in one of them must not rebuild it.
_IGNORED_RUST_FOLDERS = {"target", "tests", "benches"}
_IGNORED_SUFFIXES = {".so", ".pyd", ".dylib", ".pyc", ".pyo"}


def normalized(name: str) -> str:
    """The canonical form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """The canonical name in a requirement such as ``torch>=2.9; sys_platform == 'linux'``."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if match is None:
        raise SetupError(f"cannot read the requirement {requirement!r}")
    return normalized(match.group(1))


@dataclass(frozen=True)
class Project:
    """One distribution of this tree."""

    name: str
    path: Path
    is_rust: bool
    dependencies: tuple[str, ...]
    dev_extras: tuple[str, ...]
    extras: dict[str, tuple[str, ...]] = field(hash=False)

    def requirements(self) -> Iterator[str]:
        """What the development environment must hold for it: dependencies and ``dev-extras``."""
        yield from self.dependencies
        for extra in self.dev_extras:
            if extra not in self.extras:
                raise SetupError(f"{self.path}/pyproject.toml: dev-extras names no extra {extra!r}")
            yield from self.extras[extra]

    def sources(self) -> Iterator[Path]:
        """The files that its wheel is made of, in a stable order."""
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if (self.path / name).is_file():
                yield self.path / name
        if self.path == ROOT:
            yield from _walk(ROOT / "lepton_core")
        elif self.is_rust:
            yield from _walk(self.path, _IGNORED_RUST_FOLDERS)
        else:
            yield from _walk(self.path / "src")

    def digest(self) -> str:
        """SHA-256 over the names and bytes of its sources."""
        return digest_of(self.sources())


def _walk(folder: Path, ignored: Iterable[str] = ()) -> Iterator[Path]:
    skipped = _IGNORED_FOLDERS.union(ignored)
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(files):
            if Path(name).suffix not in _IGNORED_SUFFIXES:
                yield Path(where, name)


def digest_of(files: Iterable[Path], *extra: str) -> str:
    """SHA-256 over the files' paths (relative to the tree) and bytes, and over extra text."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    for text in extra:
        total.update(hashlib.sha256(text.encode()).digest())
    return total.hexdigest()


def _read(file: Path) -> Project:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        table = document["project"]
        name = normalized(table["name"])
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise SetupError(f"{file}: not a readable project file ({error})") from error
    extras = {key: tuple(value) for key, value in table.get("optional-dependencies", {}).items()}
    tool = document.get("tool", {}).get("lepton", {})
    return Project(
        name=name,
        path=file.parent,
        is_rust=document["build-system"]["build-backend"] == "maturin",
        dependencies=tuple(table.get("dependencies", ())),
        dev_extras=tuple(tool.get("dev-extras", ())),
        extras=extras,
    )


def discover() -> dict[str, Project]:
    """All distributions of this tree by canonical name."""
    files = [
        ROOT / "pyproject.toml",
        ROOT / "kernels_rs" / "pyproject.toml",
        *sorted((ROOT / "plugins").glob("*/pyproject.toml")),
    ]
    projects: dict[str, Project] = {}
    for file in files:
        project = _read(file)
        if project.name in projects:
            raise SetupError(
                f"{project.name} is declared twice: {projects[project.name].path}, {file}"
            )
        projects[project.name] = project
    return projects


def is_first_party(name: str, projects: dict[str, Project]) -> bool:
    """Whether a canonical name is ours; one that has our prefix but no project is a fault."""
    if name in projects:
        return True
    if name.startswith(FIRST_PARTY_PREFIX):
        raise SetupError(
            f"{name} is required but no pyproject.toml in this tree declares it; "
            "first-party distributions are never taken from an index"
        )
    return False


def third_party(projects: dict[str, Project]) -> list[str]:
    """The requirements of the development environment that come from outside this tree."""
    wanted = set()
    for project in projects.values():
        for requirement in project.requirements():
            if not is_first_party(requirement_name(requirement), projects):
                wanted.add(requirement)
    for line in TOOLS.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            wanted.add(line.strip())
    return sorted(wanted)


def pinned(name: str) -> str:
    """The version that constraints.txt gives a package.

    Raises:
        SetupError: the package is not pinned.
    """
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        left, _, version = line.partition("==")
        if version and normalized(left.strip()) == normalized(name):
            return version.strip()
    raise SetupError(f"constraints.txt pins no version of {name}")
