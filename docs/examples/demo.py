"""The main job from end to end, on real data: train, port to two precisions, prove, show.

Run by ``make demo``. Everything it makes is under ``--out``: the trained model in ``source/``,
the result with its page in ``port/``.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(*command: str, cwd: Path) -> int:
    """Run a command where a user would, show it first, and return its exit code."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    found = shutil.which(command[0], path=Path(sys.executable).parent) or command[0]
    return subprocess.run([found, *command[1:]], cwd=cwd, check=False).returncode


def main() -> int:
    """Train if needed, port, and say where to look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where to write")
    out = parser.parse_args().out.resolve()
    began = time.perf_counter()
    source = out / "source"
    source.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "digits.py", source)
    print("A small convolutional network, trained on scikit-learn's handwritten digits.")
    code = run("python", "digits.py", cwd=source)
    if code:
        return code
    code = run(
        "lepton", "port", "source/digits.py:net",
        "--to", "onnxruntime", "--precision", "fp32,fp16",
        "--data", "source/digits.npz", "--max-drop", "0.005",
        "--show-samples", "--out", "port",
        cwd=out,
    )  # fmt: skip
    if code:
        return code
    print(f"\nThe page: {out / 'port' / 'report.html'}   ({time.perf_counter() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
