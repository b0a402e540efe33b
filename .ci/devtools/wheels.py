"""First-party wheels, built from this tree alone and only when their sources changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from devtools import neutral, rust
from devtools.console import SetupError, Step, capture, run
from devtools.projects import (
    ROOT,
    Project,
    digest_of,
    discover,
    is_first_party,
    normalized,
    requirement_name,
)
from devtools.uv import VENV, full_disk, python_of

if TYPE_CHECKING:
    from collections.abc import Iterable

DIST = ROOT / "dist"
# Wheels are zip archives and carry dates: a fixed one makes the same sources the same bytes.
SOURCE_DATE_EPOCH = "1704067200"


@dataclass(frozen=True)
class Wheel:
    """A built wheel: its distribution's canonical name, its file and what its metadata says."""

    name: str
    path: Path
    requires: tuple[str, ...]
    extras: frozenset[str]


def build_all() -> dict[str, Wheel]:
    """Builds every wheel whose sources changed since it was built; returns all by name."""
    import filelock

    projects = discover()
    # How wheels are built decides about their bytes as much as their sources do.
    recipe = [
        Path(module).read_text(encoding="utf-8")
        for module in (__file__, rust.__file__, neutral.__file__)
    ]
    DIST.mkdir(exist_ok=True)
    (ROOT / ".cache").mkdir(exist_ok=True)
    # The workers of one test run ask for the wheels at the same time.
    with filelock.FileLock(ROOT / ".cache" / "wheels.lock"):
        record = _read_record()
        for project in projects.values():
            digest = digest_of(project.sources(), *recipe)
            entry = record.get(project.name, {})
            if entry.get("digest") == digest and (DIST / entry["file"]).is_file():
                continue
            with Step(f"wheel of {project.name}"):
                record[project.name] = {"digest": digest, "file": _build(project)}
                _write_record(record)
        return {name: read(DIST / record[name]["file"]) for name in projects}


def read(path: Path) -> Wheel:
    """Reads a wheel's name, requirements and extras out of its metadata."""
    with zipfile.ZipFile(path) as archive:
        inside = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        if len(inside) != 1:
            raise SetupError(f"{path} holds {len(inside)} METADATA files instead of one")
        metadata = HeaderParser().parsestr(archive.read(inside[0]).decode("utf-8"))
    requires = tuple(metadata.get_all("Requires-Dist") or ())
    extras = frozenset(metadata.get_all("Provides-Extra") or ())
    return Wheel(normalized(metadata["Name"]), path, requires, extras)


def closure(names: Iterable[str], wheels: dict[str, Wheel]) -> list[Wheel]:
    """The wheels of the named distributions and of all first-party ones that they require.

    Raises:
        SetupError: a first-party requirement has no wheel in dist/.
    """
    projects = discover()
    found: dict[str, Wheel] = {}
    waiting = [normalized(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in wheels:
            raise SetupError(f"no wheel of {name} in dist/; there are: {', '.join(sorted(wheels))}")
        found[name] = wheels[name]
        for requirement in wheels[name].requires:
            wanted = requirement_name(requirement)
            if "extra ==" not in requirement and is_first_party(wanted, projects):
                waiting.append(wanted)
    return [found[name] for name in sorted(found)]


def _read_record() -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads((DIST / ".built.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_record(record: dict[str, dict[str, str]]) -> None:
    file = DIST / ".built.json"
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(file)


def _build(project: Project) -> str:
    """Builds one wheel aside and moves it into dist/ whole; returns its file name."""
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        status, text = _command(project, Path(folder))
        built = list(Path(folder).glob("*.whl"))
        if status or len(built) != 1:
            raise SetupError(
                f"could not build the wheel of {project.name}:\n{text}{full_disk(ROOT, VENV)}"
            )
        neutral.neutralize(built[0], ROOT)
        prefix = re.sub(r"-", "_", project.name)
        for old in DIST.glob(f"{prefix}-*.whl"):
            old.unlink()
        shutil.move(built[0], DIST / built[0].name)
        return built[0].name


def _command(project: Project, out: Path) -> tuple[int, str]:
    env = {**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, "VIRTUAL_ENV": str(VENV)}
    if not project.is_rust:
        command = [python_of(VENV), "-m", "hatchling", "build", "-t", "wheel", "-d", out]
        return capture(command, env=env, cwd=project.path, timeout=600)
    rust.ensure()
    env["PATH"] = os.pathsep.join([str(python_of(VENV).parent), os.environ["PATH"]])
    command = [python_of(VENV), "-m", "maturin", "build", "--out", out]
    command += ["--interpreter", python_of(VENV), *rust.maturin_options(project.path)]
    return run(command, env=env, cwd=project.path), ""
