"""Clean environments outside the tree, which hold named first-party wheels and what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devtools.console import SetupError
from devtools.projects import CONSTRAINTS, ROOT, normalized, requirement_name
from devtools.uv import Uv, device_of, program_of, python_of
from devtools.wheels import Wheel, closure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What must not leak from the development environment into a clean one. Without bytecode every
# process would compile torch again.
_LEAKS = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "PYTEST_CURRENT_TEST",
    "PYTHONSTARTUP",
    "PYTHONDONTWRITEBYTECODE",
)


@dataclass(frozen=True)
class CleanEnv:
    """A virtual environment made of wheels, with a working folder that is empty at first."""

    folder: Path
    workdir: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_of(self.folder)

    def program(self, name: str) -> Path:
        """One of its console scripts, such as ``lepton``."""
        return program_of(self.folder, name)

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Runs its interpreter with the arguments, in the working folder, without stdin.

        Args:
            arguments: What follows the interpreter, for instance ``["-c", "import lepton_core"]``.
            env: Variables on top of the inherited ones.
            cwd: Another folder to run in.
            check: Whether an exit status other than 0 is an error.
            timeout: Seconds before the process is killed.

        Raises:
            AssertionError: the exit status is not 0 and ``check`` is set; shows the whole output.
            subprocess.TimeoutExpired: the time is over.
        """
        inherited = {key: value for key, value in os.environ.items() if key not in _LEAKS}
        inherited["PATH"] = os.pathsep.join([str(self.python.parent), inherited.get("PATH", "")])
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            env={**inherited, **(env or {})},
            cwd=cwd or self.workdir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{list(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def remove(self) -> None:
        """Deletes the environment and its working folder."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def _parent_folder(cache: Path) -> Path:
    """A folder outside the tree on the file system of uv's cache, so that hard links work."""
    temporary = Path(tempfile.gettempdir())
    if device_of(temporary) == device_of(cache):
        return temporary
    beside = cache.parent
    if ROOT in beside.resolve().parents:
        # The cache is part of this tree: beside the tree is the same file system, and outside.
        beside = ROOT.parent
    return beside if os.access(beside, os.W_OK) else temporary


def create(
    distributions: Sequence[str],
    wheels: Mapping[str, Wheel],
    *,
    extras: Sequence[str] = (),
    requirements: Sequence[str] = (),
) -> CleanEnv:
    """Makes a clean environment outside the tree.

    First-party distributions, named and required ones, are installed from the given wheel files
    and nowhere else. Third-party packages come from uv's cache or the index, at the versions of
    constraints.txt.

    Args:
        distributions: First-party names, for instance ``["lepton-onnx"]``.
        wheels: All built wheels by canonical name.
        extras: Extras of the named distributions that declare them, for instance ``["cpu"]``.
        requirements: More third-party requirements.

    Raises:
        SetupError: a wheel is missing, no named distribution has the extra, or uv cannot install.
    """
    named = {normalized(name) for name in distributions}
    arguments: list[str | Path] = []
    left = set(extras)
    for wheel in closure(named, dict(wheels)):
        chosen = sorted(set(extras) & wheel.extras) if wheel.name in named else []
        left.difference_update(chosen)
        suffix = f"[{','.join(chosen)}]" if chosen else ""
        arguments.append(f"{wheel.name}{suffix} @ {wheel.path.resolve().as_uri()}")
    if left:
        raise SetupError(f"none of {sorted(named)} has the extra {', '.join(sorted(left))}")
    for requirement in requirements:
        if requirement_name(requirement) in wheels:
            raise SetupError(f"{requirement} is first-party: name it among the distributions")
    development = Uv()
    folder = Path(tempfile.mkdtemp(prefix="lepton-env-", dir=_parent_folder(development.cache)))
    made = CleanEnv(folder=folder / "env", workdir=folder / "work")
    try:
        made.workdir.mkdir()
        uv = Uv(made.folder)
        uv.create()
        uv.install(
            *(*arguments, *requirements, "--constraint", CONSTRAINTS),
            # Direct references are needed so that no first-party name is looked up anywhere.
            what=f"{', '.join(sorted(named))} into a clean environment",
            quiet=True,
        )
    except BaseException:
        made.remove()
        raise
    return made
