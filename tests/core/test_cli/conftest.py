"""Runs of the command line: in this process, and as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FAKES = Path(__file__).resolve().parents[2] / "data" / "fake_plugins"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def data(self):
        """The one JSON object on standard output."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])

    @property
    def error(self):
        """The error of the one JSON object."""
        assert self.data["ok"] is False
        assert self.data["schema"] == 1
        return self.data["error"]


def environment(*fakes, **more):
    """Return an environment in which only the named fake distributions are plugins."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEPTON_", "_LEPTON"))}
    paths = [*(str(FAKES / fake) for fake in fakes), *map(str, more.pop("paths", ()))]
    paths += [p for p in (kept.get("PYTHONPATH"), str(Path(__file__).resolve().parents[3])) if p]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "COLUMNS": "100",
        **more,
    }


def read_terminal(master):
    """Return what programs wrote to a pseudo-terminal, until the last of them is gone."""
    parts = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # what Linux says at the end
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    return b"".join(parts)


@pytest.fixture
def command(tmp_path):
    """Run ``lepton`` in a process of its own; only fake plugins that are named exist there."""

    def run(*arguments, fakes=("ok",), allow=None, cwd=tmp_path, **more):
        more.setdefault("LEPTON_PLUGINS", ",".join(allow or _ids(fakes)))
        ended = subprocess.run(
            [sys.executable, "-m", "lepton_core.cli", *map(str, arguments)],
            cwd=cwd,
            env=environment(*fakes, **more),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


def _ids(fakes):
    names = [f for fake in fakes for f in (FAKES / fake).glob("*.dist-info/entry_points.txt")]
    found = set()
    for path in names:
        for line in path.read_text().splitlines():
            if "=" in line:
                found.add(line.partition("=")[0].strip())
    return sorted(found) or ["nothing"]


@pytest.fixture
def fake_hooks(fake_registry):
    """Make the in-memory fake target the only plugin of this process."""
    from lepton_core import hooks
    from lepton_core.dispatch import Hooks

    made = Hooks(fake_registry)
    hooks.use(made)
    return made


@pytest.fixture
def lepton(fake_hooks, capsys, tmp_path, monkeypatch):
    """Run ``lepton`` in this process with the in-memory fake target."""
    from lepton_core.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def net(tmp_path):
    """A source that the fake target takes as it is: 8 values to 10."""
    import numpy as np

    from lepton_core.testing.fake_target import write_graph

    rng = np.random.default_rng(3)
    layers = [
        {"op": "linear", "weight": rng.normal(size=(16, 8)), "bias": rng.normal(size=16)},
        {"op": "relu"},
        {"op": "linear", "weight": rng.normal(size=(10, 16)), "bias": rng.normal(size=10)},
    ]
    return write_graph(tmp_path / "net.fake", 8, layers)


@pytest.fixture
def samples(tmp_path):
    """400 samples for `net`, without labels."""
    import numpy as np

    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(5).normal(size=(400, 8)).astype(np.float32))
    return path


@pytest.fixture
def built(lepton, net, samples, tmp_path):
    """A port of `net` to fp32 and fp16."""
    out = tmp_path / "built"
    ended = lepton(
        "port", net, "--to", "fake", "--precision", "fp32,fp16", "--data", samples, "--out", out
    )
    assert ended.code == 0, ended.err
    return out
