#!/usr/bin/env python3
"""Sets up the development environment of lepton in .venv; run it as often as you like.

Steps whose inputs did not change since they last succeeded are skipped, so a second run takes
well under a second. Needs Python 3.11 or newer and nothing else: a missing Rust is installed
through rustup where that can be reached. The Makefile calls this; so can you:

    python3 .ci/setup.py
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is where an older one gets its message
    sys.exit(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from devtools import repair, rust
from devtools.console import SetupError, Step, capture, fail_cleanly, run, say
from devtools.projects import CONSTRAINTS, ROOT, Project, digest_of, discover, pinned, third_party
from devtools.uv import IS_WINDOWS, NO_INDEX, VENV, Uv, full_disk, index_answers, python_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE = ROOT / ".cache" / "setup"
STAMPS = VENV / ".lepton"


class Stamp:
    """Remembers, inside the environment, the inputs with which a step last succeeded."""

    def __init__(self, name: str, inputs: str) -> None:
        self._file = STAMPS / name
        self._inputs = inputs

    def is_current(self) -> bool:
        """Whether the step succeeded before with the same inputs."""
        try:
            return self._file.read_text(encoding="utf-8") == self._inputs
        except OSError:
            return False

    def write(self) -> None:
        """Records the success."""
        STAMPS.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self._inputs, encoding="utf-8")


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Waits until no other set-up of this tree is at work."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("a+b") as file:
        told = False
        while not _locked(file.fileno()):
            if not told:
                say("another set-up of this tree is at work: waiting for it")
                told = True
            time.sleep(0.5)
        yield


def _locked(descriptor: int) -> bool:
    try:
        if IS_WINDOWS:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def unfinished(name: str) -> Iterator[None]:
    """Leaves a mark behind when the block is interrupted or fails, for the next run to repair."""
    STATE.mkdir(parents=True, exist_ok=True)
    mark = STATE / f"unfinished-{name}"
    mark.touch()
    yield
    mark.unlink()


def was_unfinished(name: str) -> bool:
    """Whether that part of the last run did not end well."""
    return (STATE / f"unfinished-{name}").exists()


def ensure_venv() -> None:
    """Creates .venv with pip and the pinned uv, or adopts one that works."""
    stamp = Stamp("venv", f"{ROOT}\nuv {pinned('uv')}\n")
    works = capture([python_of(VENV), "-c", "import sys; assert sys.version_info >= (3, 11)"])[0]
    if works == 0 and stamp.is_current():
        return
    with Step(f"Python {sys.version.split()[0]} environment in .venv"):
        moved = works == 0 and STAMPS.exists() and not _made_here()
        if VENV.exists() and (works != 0 or moved or was_unfinished("venv")):
            _remove_venv()
        with unfinished("venv"):
            if not VENV.exists():
                _create_venv()
            elif capture([python_of(VENV), "-m", "pip", "--version"])[0]:
                _checked([python_of(VENV), "-m", "ensurepip"], "install pip into .venv")
            _install_uv()
        stamp.write()


def _made_here() -> bool:
    """Whether .venv was set up at this path: scripts in a moved one point to the old place."""
    try:
        return (STAMPS / "venv").read_text(encoding="utf-8").splitlines()[0] == str(ROOT)
    except (OSError, IndexError):
        return True


def _remove_venv() -> None:
    if any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        raise SetupError(f"{VENV} is in the way and is no virtual environment: move it elsewhere")
    say("    the environment that is there is incomplete: starting anew")
    shutil.rmtree(VENV)


def _create_venv() -> None:
    if capture([sys.executable, "-c", "import ensurepip, venv"])[0]:
        release = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"this Python ({sys.executable}) has no venv module. On Debian and Ubuntu run\n"
            f"    sudo apt-get install python{release}-venv\nthen run the same command again."
        )
    _checked([sys.executable, "-m", "venv", VENV], "create .venv")


def _install_uv() -> None:
    requirement = f"uv=={pinned('uv')}"
    python = python_of(VENV)
    status, text = capture([python, "-m", "pip", "install", "--quiet", requirement], timeout=1800)
    if status:
        cause = full_disk(VENV) or ("" if index_answers() else NO_INDEX)
        raise SetupError(f"pip could not install {requirement}.\n{text}{cause}")


def _checked(command: list[str | Path], what: str) -> None:
    status, text = capture(command, timeout=600)
    if status:
        raise SetupError(f"could not {what}:\n{text}{full_disk(VENV)}")


def ensure_third_party(projects: dict[str, Project], uv: Uv) -> None:
    """Installs what comes from outside this tree at the versions of constraints.txt."""
    wanted = third_party(projects)
    stamp = Stamp("third-party", digest_of([CONSTRAINTS], *wanted))
    if stamp.is_current():
        return
    with Step(f"third-party packages ({len(wanted)} and what they need)"), unfinished("packages"):
        say(f"    {_about_torch()}")
        uv.install(*wanted, "--constraint", CONSTRAINTS, what="the third-party packages")
        stamp.write()


def _about_torch() -> str:
    for site in repair.site_packages(VENV):
        for found in site.glob("torch-*.dist-info"):
            version = found.name.removeprefix("torch-").removesuffix(".dist-info")
            if version.partition("+")[0] == pinned("torch"):
                return f"torch {version} is there already and stays as it is"
    return (
        f"torch {pinned('torch')} is among them: up to 5 GB where it comes with CUDA; fetched once"
    )


def ensure_kernels(projects: dict[str, Project], uv: Uv) -> None:
    """Builds the Rust kernels and installs them in place."""
    for project in projects.values():
        if not project.is_rust:
            continue
        stamp = Stamp(project.name, project.digest())
        if stamp.is_current() and _has_module(project):
            continue
        with Step(f"{project.name} (Rust, release build)"):
            rust.ensure()
            with unfinished("packages"):
                _develop(project, uv)
                stamp.write()


def _has_module(project: Project) -> bool:
    """Whether the compiled module still lies in the tree, where the environment finds it."""
    return any(any(project.path.glob(f"python/**/*.{end}")) for end in ("so", "pyd"))


def _develop(project: Project, uv: Uv) -> None:
    bin_folder = python_of(VENV).parent
    env = {
        **uv.env,
        "VIRTUAL_ENV": str(VENV),
        "PATH": os.pathsep.join([str(rust.cargo_bin()), str(bin_folder), os.environ["PATH"]]),
    }
    options = rust.maturin_options(project.path)
    command = [python_of(VENV), "-m", "maturin", "develop", "--uv", *options]
    if run(command, env=env, cwd=project.path):
        cause = full_disk(VENV, project.path) or (
            "The compiler's message stands above. Where it is about fetching crates, check the\n"
            "network: cargo needs its registry once and works offline afterwards."
        )
        raise SetupError(f"could not build {project.name}.\n{cause}")


def ensure_first_party(projects: dict[str, Project], uv: Uv) -> None:
    """Installs our own Python distributions from this tree, in place, and nothing else."""
    own = [project for project in projects.values() if not project.is_rust]
    files = [project.path / "pyproject.toml" for project in own]
    version = ROOT / "lepton_core" / "_version.py"
    stamp = Stamp("first-party", digest_of([*files, *([version] if version.exists() else [])]))
    if stamp.is_current():
        return
    with Step(", ".join(project.name for project in own)), unfinished("packages"):
        # Without dependencies and build isolation nothing is looked up anywhere.
        arguments = [part for project in own for part in ("--editable", project.path)]
        uv.install(
            *("--no-deps", "--no-build-isolation", "--no-index", "--offline", "--reinstall"),
            *arguments,
            what="the distributions of this tree",
            quiet=True,
        )
        stamp.write()


def repair_packages() -> bool:
    """Makes the next steps write anew what an interrupted installation left broken, and only that.

    Returns:
        Whether there was anything broken.
    """
    broken = repair.forget_broken(VENV) if was_unfinished("packages") else []
    if broken:
        say(f"incomplete after an interrupted run, installed anew: {', '.join(broken)}")
        for stamp in STAMPS.iterdir():
            if stamp.name != "venv":
                stamp.unlink()
    return bool(broken)


def check_cache(uv: Uv) -> None:
    """Raises when a repaired package is broken again: then uv's cache itself is damaged.

    Files of an environment are hard links into the cache, so that one that was edited in place is
    damaged there as well, and installing it anew would bring the damage back.
    """
    broken = [repair.name_of(metadata) for metadata in repair.broken_packages(VENV)]
    if broken:
        names = " ".join(name.rpartition("-")[0] for name in broken)
        STAMPS.joinpath("third-party").unlink(missing_ok=True)
        (STATE / "unfinished-packages").touch()
        raise SetupError(
            f"uv's cache ({uv.cache}) holds damaged files of {', '.join(broken)}. Run\n"
            f"    {uv.program} cache clean --cache-dir {uv.cache} {names}\n"
            "then run the same command again."
        )


def main() -> None:
    """Runs every step that is not up to date."""
    began = time.monotonic()
    with only_one():
        projects = discover()
        ensure_venv()
        repaired = repair_packages()
        uv = Uv()
        ensure_third_party(projects, uv)
        if repaired:
            check_cache(uv)
        ensure_kernels(projects, uv)
        ensure_first_party(projects, uv)
        (STATE / "unfinished-packages").unlink(missing_ok=True)
    say(f"set-up is complete ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    fail_cleanly(main)
