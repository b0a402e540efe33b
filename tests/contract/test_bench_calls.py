"""Benchmarks run rarely and long; what they call of ours is there all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STALE = ("Missing positional argument", "Unexpected keyword argument", 'Module "lepton_')


def problems(folder, cache):
    """Return what mypy finds out of date in the calls of scripts; their types are their own."""
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--check-untyped-defs", "--ignore-missing-imports",
         "--config-file", os.devnull, "--cache-dir", str(cache), *map(str, folder.glob("*.py"))],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "checked" in ran.stdout or "no issues" in ran.stdout, ran.stdout + ran.stderr
    return [line for line in ran.stdout.splitlines() if any(text in line for text in STALE)]


@pytest.mark.slow
def test_benchmarks_call_what_is_there(tmp_path):
    assert problems(ROOT / "tests" / "bench", tmp_path / "cache") == []
    (tmp_path / "stale.py").write_text(
        "def main():\n"
        "    from lepton_core.files import digest_path, gone\n"
        "    from lepton_compress._search import prepared\n"
        "    prepared(digest_path(), rows=1)\n"
    )
    found = " ".join(problems(tmp_path, tmp_path / "cache"))
    assert all(text in found for text in STALE), found
