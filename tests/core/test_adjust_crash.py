"""An adjustment that is killed at any write point leaves what ran before, or what was measured."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_core.adjusting import explain, history
from lepton_core.adjusting._history import Tables
from lepton_core.deployment._routes import Dispatch, setting_key
from lepton_core.store import Store
from lepton_core.store._failpoints import POINTS

pytest.importorskip("resource")
DATA = Path(__file__).parents[1] / "data"
WRITE_POINTS = 15
"""What one adjustment passes: two transactions, and the moments between its steps."""


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder():
    """A folder in memory where there is one: a killed process tests no disk, and syncs are slow."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lepton-test-", dir=place) as name:
        yield Path(name)


@pytest.fixture
def base(folder):
    """A store with a slow version behind its alias and a fast variant; returns both."""
    sleepy = _load(DATA / "sleepy_target.py")
    made = _load(Path(__file__).with_name("passports.py")).passport()
    proof = {**made, "verdict": {**made["verdict"], "verdict": "pass"}}
    versions = []
    with Store(folder / "store") as store:
        for name, alias, ms in (("slow", "production", 3.0), ("fast", None, 0.5)):
            model = sleepy.artifact(folder / f"{name}.json", ms={str(n): ms for n in range(1, 65)})
            added = store.add("N", model, target="sleepy", passport=proof, alias=alias)
            versions.append(added.version.id)
    return versions


@pytest.fixture
def server():
    env = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
    command = [sys.executable, str(DATA / "store_job.py"), "server", ""]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(root, failpoint=""):
        process.stdin.write(json.dumps(["adjust", str(root), "", failpoint]) + "\n")
        process.stdin.flush()
        traced = process.stdout.readline() if failpoint == "trace" else "[]"
        return int(process.stdout.readline()), json.loads(traced)

    yield run
    process.communicate(timeout=60)


def let_time_pass(store):
    """Let a trial that its process left behind run out."""
    tables = Tables(store, store.resolve("N"))
    if tables.present.until is not None:
        over = replace(tables.present, until=1.0)
        store.set_setting("N", setting_key("production"), over.to_value())


def running(store):
    return explain(store, "N")["routes"][0]["version"]


def seals(point):
    """Whether a database can be sealed depends on who looks into it: such points may be missed."""
    return point.startswith("seal.")


@pytest.mark.timeout(600)
def test_kill_at_every_write_point(server, base, folder):
    slow, fast = base
    whole = folder / "whole"
    shutil.copytree(folder / "store", whole)
    code, reached = server(whole, "trace")
    assert code == 0
    points = [f"{name}:{reached[: n + 1].count(name)}" for n, name in enumerate(reached)]
    assert sum(not seals(point) for point in points) == WRITE_POINTS, points
    assert {p for p in POINTS if p.startswith("adjust.")} <= set(reached)
    with Store(whole) as store:
        assert running(store) == fast
    ends = set()
    for point in points:
        root = folder / point.replace(":", "-")
        shutil.copytree(folder / "store", root)
        code, _ = server(root, point)
        assert code == -9 or (seals(point) and code == 0), point
        with Store(root) as store:
            assert store.verify().ok, point
            value = store.settings("N").get(setting_key("production"))
            on_trial = value is not None and Dispatch.of(value.value).until is not None
            let_time_pass(store)
            states = [c.state for c in history(store, "N") if c.state != "trial"]
            assert running(store) == (fast if states == ["kept"] else slow), point
            ends.add((on_trial, tuple(states)))
        if states != ["kept"]:  # where it was kept there is nothing left to change
            assert server(root)[0] == 0, point
        with Store(root) as store:
            assert running(store) == fast and store.verify().ok, point
            assert history(store, "N")[-1].state == "kept"
    assert ends == {(False, ()), (True, ()), (False, ("kept",))}, "before, on trial, and after"
