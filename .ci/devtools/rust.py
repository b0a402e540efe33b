"""The Rust toolchain: found, or installed through rustup, or a message that says how."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from devtools.console import SetupError, capture, run, say
from devtools.projects import ROOT

IS_WINDOWS = os.name == "nt"
MANIFEST = ROOT / "kernels_rs" / "Cargo.toml"
# Used when the manifest names no rust-version.
_OLDEST = "1.85"

_BY_HAND = (
    "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    if not IS_WINDOWS
    else "    winget install Rustlang.Rustup"
)


def cargo_bin() -> Path:
    """The folder that rustup puts cargo into."""
    return Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "bin"


def add_to_path() -> None:
    """Puts rustup's folder first on PATH: a fresh rustup wins over an old cargo of the system."""
    folder = str(cargo_bin())
    parts = os.environ.get("PATH", "").split(os.pathsep)
    if parts[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *parts])


def oldest() -> str:
    """The oldest Rust that the kernels can be built with."""
    try:
        document = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    except OSError:
        return _OLDEST
    for table in (document.get("workspace", {}).get("package", {}), document.get("package", {})):
        if isinstance(table.get("rust-version"), str):
            return str(table["rust-version"])
    return _OLDEST


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def version() -> str | None:
    """The version of the cargo that PATH leads to, or None where none runs."""
    if shutil.which("cargo") is None:
        return None
    status, text = capture(["cargo", "--version"])
    match = re.search(r"\d+\.\d+\.\d+", text)
    return match.group(0) if status == 0 and match else None


def maturin_options(project: Path) -> list[str]:
    """What every build of the kernels is told, so that in-place builds and wheels share one build.

    Paths of this machine are mapped to neutral ones: they would otherwise end up in the module,
    and the same sources would give other bytes elsewhere.
    """
    mapped = {cargo_bin().parent: "/cargo", ROOT: "/lepton"}
    flags = ", ".join(f"'--remap-path-prefix={path}={name}'" for path, name in mapped.items())
    options = ["--release", "--config", f"build.rustflags=[{flags}]"]
    return [*options, "--locked"] if (project / "Cargo.lock").exists() else options


def ensure() -> None:
    """Makes sure that a new enough cargo and a linker are there.

    Raises:
        SetupError: neither there nor installable; says exactly what to run.
    """
    add_to_path()
    _ensure_linker()
    found = version()
    if found is None:
        say(f"    Rust {oldest()} or newer is needed for the kernels; none was found")
        _install_rustup()
        found = version()
        if found is None:
            raise SetupError(f"rustup ran, but {cargo_bin()} holds no cargo that works")
        say(f"    Rust {found} installed in {cargo_bin().parent}")
    if _numbers(found) < _numbers(oldest()):
        remedy = "    rustup update stable" if shutil.which("rustup") else _BY_HAND
        raise SetupError(f"Rust {found} is too old, {oldest()} is needed. Run\n{remedy}")
    _ensure_components()


def _ensure_linker() -> None:
    if IS_WINDOWS or any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return
    remedy = "xcode-select --install" if platform.system() == "Darwin" else ""
    remedy = remedy or "sudo apt-get install build-essential    (or your system's C compiler)"
    raise SetupError(f"Rust needs a C linker (cc) and none is on PATH. Run\n    {remedy}")


def _ensure_components() -> None:
    """Adds clippy and rustfmt, which only `make lint` needs: a failure is no obstacle here."""
    for component, command in (("clippy", "clippy"), ("rustfmt", "fmt")):
        if capture(["cargo", command, "--version"])[0] == 0:
            continue
        if shutil.which("rustup") and capture(["rustup", "component", "add", component])[0] == 0:
            continue
        say(f"    note: cargo {command} is missing, `make lint` will need it")


def _install_rustup() -> None:
    """Runs the official installer: minimal profile, for this user, shell profiles untouched."""
    system = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    address = f"https://win.rustup.rs/{system}" if IS_WINDOWS else "https://sh.rustup.rs"
    say("    installing Rust through rustup (minimal profile, for this user only)")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / ("rustup-init.exe" if IS_WINDOWS else "rustup-init.sh")
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                script.write_bytes(answer.read())
        except (urllib.error.URLError, OSError) as error:
            raise SetupError(
                f"Rust is missing and rustup cannot be reached ({error}). Where there is a network,"
                f" run\n{_BY_HAND}\nor install cargo {oldest()} or newer by your system's package"
                " manager, then run the same command again."
            ) from error
        command = [script] if IS_WINDOWS else ["sh", script]
        options = ["-y", "--profile", "minimal", "--no-modify-path"]
        options += ["--component", "clippy", "--component", "rustfmt"]
        env = {**os.environ, "RUSTUP_INIT_SKIP_PATH_CHECK": "yes"}
        if run([*command, *options], env=env):
            raise SetupError(f"rustup's installer failed (see above). By hand:\n{_BY_HAND}")
