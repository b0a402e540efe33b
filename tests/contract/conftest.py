"""What the rules are checked on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return _ROOT


@pytest.fixture(scope="session")
def generate():
    """The module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("docs_generate", _ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["docs_generate"]


@pytest.fixture(scope="session")
def tracked_files():
    """Every file that git tracks or would add; without git, every file but the ignored kinds."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=_ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("not a git checkout")
    names = done.stdout.decode().split("\0")
    return [path for name in names if name and (path := _ROOT / name).is_file()]
