"""uv, told everything that pip is told: index, find-links, proxies and certificates."""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
from pathlib import Path

from devtools.console import SetupError, capture, run
from devtools.projects import ROOT

VENV = ROOT / ".venv"
IS_WINDOWS = os.name == "nt"

_MIB = 1024 * 1024


def python_of(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if IS_WINDOWS else "bin/python")


def program_of(venv: Path, name: str) -> Path:
    """A console script of a virtual environment."""
    return venv / (f"Scripts/{name}.exe" if IS_WINDOWS else f"bin/{name}")


def pip_settings(python: Path) -> dict[str, str]:
    """Pip's settings from its files and its environment, by option name."""
    status, text = capture([python, "-m", "pip", "config", "list"])
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines() if status == 0 else ():
        match = re.match(r"(global|install|:env:)\.([a-z-]+)=(.*)$", line)
        if match is None:
            continue
        section, option, value = match.groups()
        try:
            found.setdefault(section, {})[option] = str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            continue
    # pip's own order of precedence: the environment, then `install`, then `global`.
    return {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}


def environment(python: Path) -> dict[str, str]:
    """Environment variables that make uv resolve from the places that pip resolves from.

    What is already set for uv itself is left as it is.
    """
    pip = pip_settings(python)
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)

    def pass_on(option: str, variable: str, separator: str | None = None) -> None:
        value = pip.get(option, "").strip()
        if value and not env.get(variable):
            env[variable] = separator.join(value.split()) if separator else value

    pass_on("index-url", "UV_DEFAULT_INDEX")
    pass_on("extra-index-url", "UV_INDEX", " ")
    pass_on("find-links", "UV_FIND_LINKS", ",")
    pass_on("no-index", "UV_NO_INDEX")
    pass_on("trusted-host", "UV_INSECURE_HOST", " ")
    pass_on("cert", "SSL_CERT_FILE")
    pass_on("proxy", "HTTP_PROXY")
    pass_on("proxy", "HTTPS_PROXY")
    pass_on("default-timeout", "UV_HTTP_TIMEOUT")
    pass_on("timeout", "UV_HTTP_TIMEOUT")
    if "extra-index-url" in pip:
        # pip takes the best version of all indexes; uv by default stops at the first that answers.
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if not env.get("SSL_CERT_FILE"):
        # pip trusts the system's certificates too.
        env.setdefault("UV_SYSTEM_CERTS", "true")
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    return env


def device_of(path: Path) -> int:
    """The file system that a path is on, or would be on."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


def cache_folder(env: dict[str, str]) -> Path:
    """Where uv keeps packages: its usual place if hard links from there to here are possible.

    Otherwise a folder of this tree is used: a cache on another file system would turn every
    environment into a copy of several gigabytes.
    """
    if env.get("UV_CACHE_DIR"):
        return Path(env["UV_CACHE_DIR"])
    if IS_WINDOWS:
        usual = Path(env.get("LOCALAPPDATA", str(Path.home()))) / "uv" / "cache"
    else:
        usual = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    writable = os.access(_existing(usual), os.W_OK)
    if writable and device_of(usual) == device_of(ROOT):
        return usual
    return ROOT / ".cache" / "uv"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


class Uv:
    """The pinned uv of the development environment, acting on one environment.

    Attributes:
        program: Path of the executable.
    """

    def __init__(self, venv: Path = VENV) -> None:
        self.program = program_of(VENV, "uv")
        self._venv = venv
        self._settings: dict[str, str] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment that uv runs in; pip is asked for its settings on first use only."""
        if self._settings is None:
            self._settings = environment(python_of(VENV))
            self._settings["UV_CACHE_DIR"] = str(cache_folder(self._settings))
        return self._settings

    @property
    def cache(self) -> Path:
        """The folder of uv's cache."""
        return Path(self.env["UV_CACHE_DIR"])

    def create(self) -> None:
        """Creates the environment, without pip."""
        command = [self.program, "venv", "-q", "--no-project", "--python", python_of(VENV)]
        status, text = capture([*command, self._venv], env=self.env)
        if status:
            raise SetupError(f"could not create {self._venv}:\n{text}")

    def install(self, *arguments: str | Path, what: str, quiet: bool = False) -> None:
        """Installs into the environment.

        Raises:
            SetupError: with the likely cause, and what to do about it.
        """
        command = [self.program, "pip", "install", "--python", python_of(self._venv), *arguments]
        if quiet:
            status, text = capture(command, env=self.env, timeout=3600)
        else:
            status, text = run(command, env=self.env), ""
        if status:
            raise SetupError(f"could not install {what}.\n{text}{self._diagnosis()}")

    def _diagnosis(self) -> str:
        full = full_disk(self._venv, self.cache, Path(tempfile.gettempdir()))
        if full:
            return full
        if not index_answers():
            return NO_INDEX
        return "What uv says about it stands above."


NO_INDEX = (
    "No package index answers. Check the network; behind a proxy set HTTPS_PROXY; a mirror or a\n"
    "folder of wheels is taken from pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_CERT)."
)


def full_disk(*places: Path) -> str:
    """A message when one of the places has no room left, else an empty string."""
    for place in places:
        free = shutil.disk_usage(_existing(place)).free
        # The largest single file of a CUDA build has several hundred MiB.
        if free < 1024 * _MIB:
            return (
                f"The disk of {place} is full ({free // _MIB} MiB left). Free some space (a CUDA\n"
                "build of torch needs about 10 GB, a CPU build about 2 GB) or put uv's cache on\n"
                "a larger disk with UV_CACHE_DIR, then run the same command again."
            )
    return ""


def index_answers() -> bool:
    """Whether pip, with all its settings, gets an answer about a small package."""
    status, _ = capture(
        [
            *(python_of(VENV), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"),
            *("--ignore-installed", "--retries", "0", "--timeout", "10", "iniconfig"),
        ],
        timeout=60,
    )
    return status == 0
