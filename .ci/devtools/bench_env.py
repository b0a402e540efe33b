"""The environment of the kernels' benchmark: the peers, which may not agree with our own pins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from devtools.console import SetupError, say
from devtools.projects import CONSTRAINTS, ROOT
from devtools.uv import Uv, python_of

if TYPE_CHECKING:
    from pathlib import Path

BENCH_VENV = ROOT / ".venv-bench"
PINS = ROOT / ".ci" / "bench-requirements.txt"
ABSENT = BENCH_VENV / "absent.json"
"""Why a peer is not there, by its name; the benchmark puts it into its report."""

# What is needed to run at all, and what most machines have; the peers one by one.
BASE = (
    "numpy",
    "ml-dtypes",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "openvino",
    "scipy",
    "threadpoolctl",
)
PEERS = ("nncf", "gguf", "torchao", "coremltools", "ai-edge-quantizer")


def bench_python() -> Path:
    """The interpreter of the benchmark's environment, which is made if it is not up to date.

    A peer that cannot be installed is left out, and the reason is kept in `ABSENT`; the next call
    tries again.

    Raises:
        SetupError: not even the base can be installed.
    """
    wanted = "\n".join([*BASE, "", *PEERS, ""])
    wanted += PINS.read_text(encoding="utf-8") + CONSTRAINTS.read_text(encoding="utf-8")
    stamp = BENCH_VENV / "pins.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python_of(BENCH_VENV)
    say(f"peers of the kernels, into {BENCH_VENV.name}")
    uv = Uv(BENCH_VENV)
    if not python_of(BENCH_VENV).exists():
        uv.create()
    pins = ("--constraint", CONSTRAINTS, "--constraint", PINS)
    uv.install(*BASE, *pins, what="the base of the benchmark", quiet=True)
    absent = {}
    for peer in PEERS:
        try:
            uv.install(peer, *pins, what=peer, quiet=True)
        except SetupError as error:
            absent[peer] = str(error)
            say(f"    without {peer}: {error}")
    ABSENT.write_text(json.dumps(absent, indent=2) + "\n", encoding="utf-8")
    _add_kernels(python_of(BENCH_VENV))
    if absent:
        stamp.unlink(missing_ok=True)
    else:
        stamp.write_text(wanted, encoding="utf-8")
    return python_of(BENCH_VENV)


def _add_kernels(python: Path) -> None:
    """Lets the environment import the kernels of this tree, as `make setup` built them."""
    site = next(iter(python.parents[1].glob("[Ll]ib/**/site-packages")))
    source = ROOT / "kernels_rs" / "python"
    (site / "lepton_kernels.pth").write_text(f"{source}\n", encoding="utf-8")
