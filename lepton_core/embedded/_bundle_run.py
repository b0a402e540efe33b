"""Load this bundle and run it; nothing but the runtime and NumPy is needed.

As a program it checks every file and the golden pairs: ``python run.py``. As a module::

    from run import load

    run = load(threads=2)
    outputs = run({"image": image})

The signature stands in signature.json, what to do before and after in preprocessing.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).resolve().parent


def verify() -> None:
    """Compare every file with SHA256SUMS.

    Raises:
        ValueError: A file is missing, changed, or not listed.
    """
    listed = set()
    for line in (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = HERE / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{name} is missing or is not the file that was shipped")
        listed.add(name)
    if not {"run.py", "runtime.py", "signature.json", "lepton.json"} <= listed:
        raise ValueError("SHA256SUMS does not list every file")


def load(threads: int | None = None) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Verify the bundle, and return a function from named arrays to named arrays.

    Args:
        threads: Threads of the runtime; its own choice by default.
    """
    verify()
    sys.path.insert(0, str(HERE))
    try:
        import runtime  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(HERE))
    about = json.loads((HERE / "lepton.json").read_text(encoding="utf-8"))
    run: Callable[[Mapping[str, Any]], dict[str, Any]] = runtime.load(
        HERE / about["model"], threads
    )
    return run


def check_golden(run: Callable[[Mapping[str, Any]], dict[str, Any]]) -> float:
    """Run the golden inputs; returns the worst relative L2 error of an output.

    Raises:
        ValueError: The answers are not those of the machine that made the bundle.
    """
    import numpy as np

    folder = HERE / "golden"
    if not folder.is_dir():
        return 0.0
    index = json.loads((folder / "golden.json").read_text(encoding="utf-8"))

    def arrays(kind: str) -> dict[str, Any]:
        return {n: np.load(folder / f, allow_pickle=False) for n, f in index[kind].items()}

    worst = 0.0
    actual = run(arrays("inputs"))
    for name, expected in arrays("outputs").items():
        error = np.linalg.norm(np.asarray(actual[name], np.float64) - expected)
        worst = max(worst, float(error / (np.linalg.norm(expected) or 1.0)))
    if not worst <= index["rel_l2"]:
        raise ValueError(f"relative L2 error {worst:.3g}, at most {index['rel_l2']:.3g} expected")
    return worst


def main() -> int:
    """Check the bundle; returns the exit code."""
    try:
        worst = check_golden(load())
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"ok: every file, golden pairs within {worst:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
