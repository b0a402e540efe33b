"""The six verbs on real data: adapt, convert, optimize, deploy, adjust, migrate, and the way back.

Run by ``make demo``. A small network is trained, adapted, built for four runtimes in three
precisions, proved, and deployed; then an application goes on calling it while it is adjusted,
migrated and rolled back. Everything is under ``--out``: the trained model in ``source/``, the
result with its page in ``port/``, the store in ``store/``, the deployment's page ``digits.html``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SERVERS, PHONES = ("onnxruntime", "openvino"), ("tflite", "coreml")
CALLERS = 2
PAUSE = 0.004
"""Seconds between two calls of a caller: the application has other things to do as well."""


class StepError(Exception):
    """A step failed; the demonstration ends."""


def run(*command: str, cwd: Path, expect: tuple[int, ...] = (0,)) -> int:
    """Run a command where a user would and show it first.

    Raises:
        StepError: It ended with a code that is not expected.
    """
    print(f"\n$ {shlex.join(command)}", flush=True)
    found = shutil.which(command[0], path=Path(sys.executable).parent) or command[0]
    env = {**os.environ, "LEPTON_STORE": str(cwd / "store")}
    code = subprocess.run([found, *command[1:]], cwd=cwd, env=env, check=False).returncode
    if code not in expect:
        raise StepError(code)
    return code


class Application:
    """Calls the deployment all the time, and counts what it gets.

    Args:
        store: Folder of the store.
        samples: File with ``image`` and ``labels``.
    """

    def __init__(self, store: Path, samples: Path) -> None:
        import lepton_core as lepton

        data = np.load(samples)
        self._images, self._labels = data["image"], data["labels"]
        self._stop = threading.Event()
        self.calls = self.failed = self.rows = self.right = 0
        self._lock = threading.Lock()
        self.digits = lepton.deployment(
            "digits@production", store=store, poll_seconds=0.2, flush_seconds=0.5
        )
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _call(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._stop.is_set():
            count = int(rng.choice([1, 1, 1, 32]))
            rows = rng.integers(0, len(self._images), count)
            right = failed = 0
            try:
                logits = self.digits.run({"image": self._images[rows]})["logits"]
                right = int((logits.argmax(axis=1) == self._labels[rows]).sum())
            except Exception as error:  # counted, whatever it is
                print(f"a call failed: {error}", flush=True)
                failed = 1
            with self._lock:
                self.calls += 1
                self.failed += failed
                self.rows += count
                self.right += right
            time.sleep(PAUSE)

    def close(self) -> dict[str, Any]:
        """Stop calling; return what the deployment measured."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        snapshot = self.digits.snapshot()
        self.digits.close()
        return snapshot


def build(out: Path) -> None:
    """Train, adapt, port, deploy."""
    source = out / "source"
    source.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "digits.py", source)
    print("A small convolutional network, trained on scikit-learn's handwritten digits.")
    run("python", "digits.py", cwd=source)
    run("lepton", "adapt", "source/digits.py:net", "--to", "onnxruntime", "--out", "adapted",
        cwd=out)  # fmt: skip
    run(
        "lepton", "port", "adapted", "--to", ",".join((*SERVERS, *PHONES)),
        "--precision", "fp32,fp16,int8", "--data", "source/digits.npz", "--max-drop", "0.005",
        "--show-samples", "--out", "port",
        cwd=out,
    )  # fmt: skip
    shutil.rmtree(out / "store", ignore_errors=True)
    files = [p for target in SERVERS for p in sorted((out / "port" / target).glob("*/model.*"))]
    kept = [p.parent for p in files if p.suffix != ".bin"]
    production = out / "port" / "onnxruntime" / "fp32"
    for folder in [f for f in kept if f != production]:  # variants to choose from
        place = folder.relative_to(out).as_posix()
        run("lepton", "deploy", place, "--name", "digits", "--to", folder.parent.name, cwd=out)
    run("lepton", "deploy", "port/onnxruntime/fp32", "--name", "digits", "--to", "onnxruntime",
        "--alias", "production", cwd=out)  # fmt: skip


def operate(out: Path) -> int:
    """Adjust, migrate and roll back while an application calls; returns the calls that failed."""
    application = Application(out / "store", out / "source" / "digits.npz")
    try:
        time.sleep(2.0)
        run("lepton", "adjust", "digits", "--floor", "0.97", "--data", "source/digits.npz",
            "--settle", "8s", cwd=out, expect=(0, 1))  # fmt: skip
        run("lepton", "migrate", "digits", "--to", "openvino", "--data", "source/digits.npz",
            "--max-drop", "0.005", "--watch", "5s", cwd=out, expect=(0, 1))  # fmt: skip
        run("lepton", "store", "rollback", "digits", "--why", "the demonstration ends", cwd=out)
        time.sleep(2.0)
    finally:
        snapshot = application.close()
    run("lepton", "store", "page", "digits", cwd=out)
    _table(out, snapshot)
    accuracy = application.right / application.rows
    print(
        f"\n{application.calls:,} calls, {application.failed} failed; {accuracy:.1%} of "
        f"{application.rows:,} images right; {snapshot['swaps']} swaps under way"
    )
    return application.failed


def _table(out: Path, snapshot: dict[str, Any]) -> None:
    from lepton_core.store import Store

    with Store(out / "store", create=False) as store:
        known = {version.id: version for version in store.versions("digits")}
    print(
        f"\n{'ran on':14} {'precision':10} {'calls':>8} {'failed':>7} {'p50 ms':>8} {'p95 ms':>8}"
    )
    for one in snapshot["versions"]:
        version = known[one["version"]]
        p50, p95 = one["p50_ms"] or float("nan"), one["p95_ms"] or float("nan")
        print(f"{version.target:14} {version.precision:10} {one['calls']:8,} {one['errors']:7} "
              f"{p50:8.3f} {p95:8.3f}")  # fmt: skip


def main() -> int:
    """Do it all, and say where to look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where to write")
    out = parser.parse_args().out.resolve()
    began = time.perf_counter()
    try:
        build(out)
        failed = operate(out)
    except StepError as stop:
        return int(stop.args[0]) or 1
    print(f"\nThe proof:      {out / 'port' / 'report.html'}")
    print(f"The deployment: {out / 'digits.html'}   ({time.perf_counter() - began:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
