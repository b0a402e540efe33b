#!/usr/bin/env python3
"""Measures how fast lepton starts, and runs the benchmarks in tests/bench.

Start-up is measured in fresh processes, in an environment that shows 120 further distributions,
because listing installed distributions is what plugin systems are slow at. Every script in
tests/bench (not its modules, which start with an underscore) gets ``--out FILE.json``. The kernels
are measured beside other packages, in an environment of their own (``.venv-bench``); ``--docs``
runs them alone and writes the chart and the tables of docs/reference/kernels.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from devtools.bench_env import bench_python
from devtools.console import SetupError, fail_cleanly, run, say
from devtools.projects import ROOT
from devtools.uv import VENV, program_of, python_of

DISTRIBUTIONS = 120
ROUNDS = 15

_BARE = "bare python"
_IMPORT = "import lepton_core"


def cases() -> dict[str, list[str]]:
    """The command line of every measurement."""
    python, lepton = str(python_of(VENV)), str(program_of(VENV, "lepton"))
    return {
        _BARE: [python, "-c", "pass"],
        _IMPORT: [python, "-c", "import lepton_core"],
        "lepton --version": [lepton, "--version"],
        "lepton targets": [lepton, "targets"],
    }


def add_distributions(folder: Path) -> None:
    """Writes metadata of distributions with entry points of their own, as real ones have."""
    for number in range(DISTRIBUTIONS):
        info = folder / f"bench_filler_{number}-1.0.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: bench-filler-{number}\nVersion: 1.0\n"
        (info / "METADATA").write_text(text, encoding="utf-8")
        points = f"[console_scripts]\nfiller-{number} = filler:main\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")


def measure(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Median wall and CPU seconds of a command over several fresh processes.

    Raises:
        SetupError: the command fails.
    """
    walls, cpus = [], []
    for _ in range(ROUNDS + 1):
        before, began = _children_cpu(), time.perf_counter()
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        walls.append(time.perf_counter() - began)
        cpus.append(_children_cpu() - before)
        if done.returncode:
            raise SetupError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    # The first run fills the caches of the file system and of the entry points.
    return {"wall_s": statistics.median(walls[1:]), "cpu_s": statistics.median(cpus[1:])}


def _children_cpu() -> float:
    try:
        import resource
    except ImportError:  # Windows, where os.times() has no children: CPU times read 0 there
        times = os.times()
        return times.children_user + times.children_system
    # os.times() counts in ticks of 10 ms, which is coarser than what is measured here.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def start_up() -> dict[str, object]:
    """Measures all start-up times and holds them against their goals."""
    with tempfile.TemporaryDirectory() as folder:
        add_distributions(Path(folder))
        env = {**os.environ, "PYTHONPATH": folder, "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        results = {name: measure(command, env) for name, command in cases().items()}
    over_bare = results[_IMPORT]["cpu_s"] - results[_BARE]["cpu_s"]
    goals = {
        "import over bare python, CPU s": (over_bare, 0.030),
        "lepton --version, s": (results["lepton --version"]["wall_s"], 0.15),
        "lepton targets, s": (results["lepton targets"]["wall_s"], 0.3),
    }
    for name, (seconds, goal) in goals.items():
        say(f"  {name:34} {seconds:7.3f}   goal {goal}   {'met' if seconds <= goal else 'MISSED'}")
    return {
        "extra_distributions": DISTRIBUTIONS,
        "rounds": ROUNDS,
        "median": results,
        "goals": {name: {"measured": got, "goal": goal} for name, (got, goal) in goals.items()},
    }


def kernels(out: Path, *more: str | Path) -> list[str | Path]:
    """The command line of the kernels' benchmark, in the environment of its peers."""
    script = ROOT / "tests" / "bench" / "kernels.py"
    return [bench_python(), script, "--out", out / "kernels.json", *more]


def write_docs(out: Path) -> None:
    """Measures the kernels and writes what the documentation shows of it.

    Raises:
        SetupError: the benchmark fails.
    """
    docs = ROOT / "docs"
    chart, page = docs / "images" / "kernels.svg", docs / "reference" / "kernels.md"
    if run(kernels(out, "--chart", chart, "--page", page), cwd=ROOT):
        raise SetupError("the kernels' benchmark failed")


def run_script(file: Path, out: Path) -> bool:
    """Runs a benchmark; whether it could be run and reached what it is held against."""
    command: list[str | Path] = [sys.executable, file, "--out", out / f"{file.stem}.json"]
    try:
        if file.stem == "kernels":
            command = kernels(out, "--chart", out / "kernels.svg")
    except SetupError as error:
        say(f"  {error}")  # the other benchmarks need not wait for an environment of peers
        return False
    return run(command, cwd=ROOT) == 0


def main() -> None:
    """Runs all benchmarks and writes their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out", help="folder of results")
    parser.add_argument("--docs", action="store_true", help="write the docs' page of the kernels")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.docs:
        write_docs(out)
        return
    say(f"start-up with {DISTRIBUTIONS} further distributions installed, median of {ROUNDS}")
    machine = {"python": platform.python_version(), "machine": platform.platform()}
    report = {"environment": {**machine, "cpus": os.cpu_count()}, "start_up": start_up()}
    (out / "start-up.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    failed = []
    for file in sorted((ROOT / "tests" / "bench").glob("[!_]*.py")):
        say(f"{file.relative_to(ROOT)}")
        if not run_script(file, out):
            failed.append(str(file.relative_to(ROOT)))
    if failed:
        raise SetupError(f"benchmarks failed: {', '.join(failed)}")
    say(f"results are in {out}")


if __name__ == "__main__":
    fail_cleanly(main)
