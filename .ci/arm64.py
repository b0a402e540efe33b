#!/usr/bin/env python3
"""Runs lepton on an emulated arm64 machine: the kernels' tests, and variants that were built here.

Debian for arm64 is unpacked into a folder and run by QEMU in user mode (``QEMU_CPU``, a Cortex-A72
by default), with the runtimes' own arm64 wheels and lepton's kernels compiled for it.
What `lepton port` builds on this machine from the digits of the demonstration is verified there:
the same files, run by other machine code. Numbers are proved so, times are not: an emulator's say
nothing about a device.

It needs root on Debian or Ubuntu, the packages debootstrap, qemu-user-static, binfmt-support and
gcc-aarch64-linux-gnu, and rustup. The first run takes some twenty minutes, later ones ten.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from devtools import projects, rust, wheels
from devtools.console import SetupError, Step, fail_cleanly, run, say
from devtools.projects import CONSTRAINTS, ROOT
from devtools.uv import VENV, program_of, python_of

TRIPLE = "aarch64-unknown-linux-gnu"
LINKER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
RELEASE = "bookworm"
NEEDED = {
    "debootstrap": "debootstrap",
    EMULATOR: "qemu-user-static",
    "update-binfmts": "binfmt-support",
    LINKER: "gcc-aarch64-linux-gnu",
}
PLUGINS = ("lepton-onnxruntime", "lepton-openvino", "lepton-tflite", "lepton-coreml")
RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert")
TARGETS = ("onnxruntime", "openvino", "tflite", "coreml")
CORES = 2

# An emulated process sees the host's /proc and /sys. Runtimes read there which core they are on.
CPUINFO = """processor\t: {core}
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
CORE_FILES = {
    "topology/core_id": "{core}",
    "topology/physical_package_id": "0",
    "topology/core_cpus": "{mask:x}",
    "topology/core_cpus_list": "{core}",
    "topology/thread_siblings": "{mask:x}",
    "topology/thread_siblings_list": "{core}",
    "topology/package_cpus": "{all:x}",
    "topology/core_siblings": "{all:x}",
    "regs/identification/midr_el1": "0x00000000410fd083",
}


def main() -> None:
    """Makes the machine, if it is not there, and runs everything on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "arm64", help="the machine")
    parser.add_argument("--examples", type=int, default=10, help="of each property test (10)")
    options = parser.parse_args()
    check_host()
    system = System(options.folder.resolve())
    with Step("kernels: Rust tests"):
        rust_tests()
    with Step("Debian for arm64"):
        system.make()
    with system, Step("packages"):
        system.install(options.folder / "wheels")
    with system, Step("kernels: Python tests"):
        system.kernel_tests(options.examples)
    with Step("variants, built on this machine"):
        port = build_variants(options.folder / "digits")
    with system, Step("variants, verified on arm64"):
        system.verify(port)


def check_host() -> None:
    """Raises SetupError if something is missing."""
    if os.geteuid() != 0:
        raise SetupError("only root may make another machine's root folder: run it with sudo")
    missing = [package for name, package in NEEDED.items() if shutil.which(name) is None]
    if missing:
        raise SetupError("missing; on Debian run\n    apt-get install " + " ".join(missing))
    rust.ensure()
    if shutil.which("rustup") is None:
        raise SetupError("cargo is not rustup's, which alone has the library for arm64: install it")
    formats = Path("/proc/sys/fs/binfmt_misc")
    if not (formats / "register").exists():
        checked("mount", "-t", "binfmt_misc", "binfmt_misc", formats)
    if not (formats / "qemu-aarch64").exists():
        checked("update-binfmts", "--enable", "qemu-aarch64")
    checked("rustup", "target", "add", TRIPLE)


def checked(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Runs a command; raises SetupError if it fails."""
    if run(command, env={**os.environ, **(env or {})}, cwd=cwd):
        raise SetupError(f"failed: {' '.join(map(str, command))}")


def cross() -> dict[str, str]:
    """The variables by which cargo links and runs programs of the other machine."""
    prefix = f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}"
    runner = f"{EMULATOR} -L /usr/aarch64-linux-gnu"
    return {f"{prefix}_LINKER": LINKER, f"{prefix}_RUNNER": runner, **CORE}


CORE = {"QEMU_CPU": os.environ.get("QEMU_CPU", "cortex-a72")}


def rust_tests() -> None:
    """Runs the kernels' own tests."""
    checked("cargo", "test", "--quiet", "--locked", "--lib", "--package", "lepton-quant",
            "--manifest-path", rust.MANIFEST, "--target", TRIPLE, env=cross())  # fmt: skip


def build_variants(folder: Path) -> Path:
    """Ports the digits to all targets; returns the folder of the result."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "examples" / "digits.py", folder)
    checked(python_of(VENV), "digits.py", cwd=folder)
    checked(program_of(VENV, "lepton"), "port", "digits.py:net", "--to", ",".join(TARGETS),
            "--precision", "fp32,int8", "--data", "digits.npz", "--max-drop", "0.01",
            "--out", "port", cwd=folder)  # fmt: skip
    return folder / "port"


class System:
    """The root folder of an arm64 machine; as a context, with what its programs expect to see."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._mounted: list[Path] = []

    def make(self) -> None:
        """Unpacks the machine once."""
        if (self._root / "venv" / "bin" / "python").exists():
            return
        shutil.rmtree(self._root, ignore_errors=True)
        checked("debootstrap", "--arch=arm64", "--variant=minbase",
                "--include=python3,python3-venv,ca-certificates", RELEASE,
                self._root)  # fmt: skip
        for core in range(CORES):
            known = {"core": core, "mask": 1 << core, "all": (1 << CORES) - 1}
            for name, text in CORE_FILES.items():
                self._write(f"sys/devices/system/cpu/cpu{core}/{name}", text.format(**known))
        for name in ("possible", "present", "online"):
            self._write(f"sys/devices/system/cpu/{name}", f"0-{CORES - 1}")
        self._write("cpuinfo", "".join(CPUINFO.format(core=core) for core in range(CORES)))
        self.inside("python3", "-m", "venv", "/venv")

    def _write(self, name: str, text: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")

    def __enter__(self) -> System:
        proc = self._root / "proc"
        self._mount("-t", "proc", "proc", proc)
        self._mount("--bind", self._root / "cpuinfo", proc / "cpuinfo")
        # The machine has device files of its own: no folder of the host is ever inside.
        (self._root / "dev" / "shm").mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "tmpfs", self._root / "dev" / "shm")
        return self

    def _mount(self, *arguments: str | Path) -> None:
        checked("mount", *arguments)
        self._mounted.append(Path(arguments[-1]))

    def __exit__(self, *_: object) -> None:
        while self._mounted:
            run(["umount", self._mounted.pop()])

    def inside(self, *command: str | Path, cwd: str = "/") -> None:
        """Runs a command on the machine; raises SetupError if it fails."""
        in_folder = ["env", "-C", cwd, "-u", "PYTHONPATH", "-u", "PIP_FIND_LINKS", *command]
        checked("chroot", self._root, *in_folder, env=CORE)

    def install(self, folder: Path) -> None:
        """Installs the runtimes, and the wheels of this tree."""
        built = wheels.build_all()
        checked(program_of(VENV, "maturin"), "build", "--release", "--locked", "--target", TRIPLE,
                "--compatibility", "linux", "--out", folder, env=cross(),
                cwd=rust.MANIFEST.parent)  # fmt: skip
        names = {projects.normalized(name) for name in PLUGINS}
        ours = [w.path for w in wheels.closure(names, built) if w.path.name.endswith("-any.whl")]
        ours += [max(folder.glob("lepton_kernels-*.whl"), key=lambda p: p.stat().st_mtime)]
        place = self._root / "wheels"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for path in ours:
            shutil.copy(path, place)
        for name in ("/etc/ssl/certs/ca-certificates.crt", "/etc/resolv.conf", "/etc/pip.conf"):
            if Path(name).exists():
                shutil.copy(name, self._root / name[1:])
        shutil.copy(CONSTRAINTS, self._root / "constraints.txt")
        pip = ("/venv/bin/pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check")
        tests = ("pytest", "pytest-timeout", "hypothesis", "scipy")
        self.inside(*pip, "--constraint", "/constraints.txt", *RUNTIMES, *tests)
        files = [f"/wheels/{path.name}" for path in ours]
        self.inside(*pip, "--force-reinstall", "--no-deps", *files)
        self.inside(*pip, "--constraint", "/constraints.txt", *files)

    def kernel_tests(self, examples: int) -> None:
        """Runs the property tests of the kernels."""
        place = self._root / "kernel_tests"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(ROOT / "kernels_rs" / "tests", place)
        (place / "test_bench.py").unlink()
        profile = place / "conftest.py"
        text = profile.read_text(encoding="utf-8")
        profile.write_text(text.replace("max_examples=100", f"max_examples={examples}"))
        self.inside("/venv/bin/python", "-m", "pytest", "-q", "--import-mode=importlib",
                    "-p", "no:cacheprovider", ".", cwd="/kernel_tests")  # fmt: skip

    def verify(self, port: Path) -> None:
        """Verifies every variant of a port, against the pivot that it keeps."""
        place = self._root / "digits"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(port.parent, place)
        result = json.loads((port / "result.json").read_text(encoding="utf-8"))
        for variant in result["variants"]:
            if variant["kept"]:  # of others there is only the passport
                name = f"{variant['target']}/{variant['precision']}"
                say(f"\n{name}")
                self.inside("/venv/bin/lepton", "verify", f"port/{name}", "--data", "digits.npz",
                            cwd="/digits")  # fmt: skip


if __name__ == "__main__":
    fail_cleanly(main)
