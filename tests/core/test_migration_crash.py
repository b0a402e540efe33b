"""A migration survives kill -9 at every write point, and a full disk."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from lepton_core import types
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.errors import StorageError
from lepton_core.migration import history
from lepton_core.store import Store
from lepton_core.store._failpoints import POINTS
from lepton_core.testing.fake_target import write_graph

pytest.importorskip("resource")
JOB = Path(__file__).parents[1] / "data" / "migrate_job.py"
JOBS = {"migrate": (95, ""), "alarmed": (16, "migrate.switched"), "unequal": (11, "migrate.built")}
"""Every job with the number of write points, and the point after which they count.

Before it a job does what the first one does. 122 points in all, and those that depend on chance:
whether a database can be sealed depends on who looks into it at that moment, and whether a folder
has to be made on the digests of what is stored, which hold times.
"""


class Server:
    """A process that forks for every job, so that each pays for no imports."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(JOB), "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, job, root, extra, failpoint=""):
        order = json.dumps([job, str(root), str(extra), failpoint])
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        traced = self.process.stdout.readline() if failpoint == "trace" else "[]"
        return int(self.process.stdout.readline()), json.loads(traced)

    def close(self):
        return self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def folder():
    """A folder in memory where there is one: a killed process tests no disk, and syncs are slow."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lepton-test-", dir=place) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def base(folder):
    """A store with a deployment on the fake target, and samples."""
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO
    from lepton_core.registry import Registry
    from lepton_core.testing import fake_target

    rng = np.random.default_rng(0)
    layers = [{"op": "linear", "weight": rng.normal(size=(3, 6)), "bias": rng.normal(size=3)}]
    graph = write_graph(folder / "net.fake", 6, layers)
    np.savez(folder / "data.npz", x=rng.normal(size=(40, 6)).astype(np.float32))
    (folder / "data.npz.fault").write_text("off")
    registry = Registry(environ={}, entries=())
    registry.register(fake_target, fake_target.INFO)
    registry.register(plugin, INFO)
    hooks, work = Hooks(registry), folder / "work"
    work.mkdir()
    model = types.Model("fake-graph", str(graph))
    source = hooks.inspect(model, types.InspectRequest(), Context(work)).model
    options = {"store": str(folder / "store")}
    hooks.deploy(
        source, types.DeployRequest("N", "fake", "production", options=options), Context(work)
    )
    return folder


def points_of(server, job, base, since):
    """Return every (point, count) that a whole run of a job passes after a point."""
    with tempfile.TemporaryDirectory(dir=base) as whole:
        root = Path(whole, "store")
        shutil.copytree(base / "store", root)
        code, reached = server.run(job, root, base / "data.npz", "trace")
    assert code == 0
    passed = collections.Counter()
    points = []
    for name in reached:
        passed[name] += 1
        points.append(f"{name}:{passed[name]}")
    start = reached.index(since) + 1 if since else 0
    return points[start:]


def look(root, old):
    """Return the target that runs, after making sure that nothing is damaged or half done."""
    with Store(root) as store:
        report = store.verify()
        assert report.ok, report.damage
        found = store.resolve("N@production").version
        assert found.id == old or (found.target == "faulty" and store.passport(found))
        return found.target


def seals(point):
    return point.startswith("seal.")


def is_chance(point):
    return seals(point) or point.startswith("cas.folder-made")


def thinned(points):
    """Return the first, the middle and the last of every kind of point."""
    kinds = collections.defaultdict(list)
    for point in points:
        kinds[point.partition(":")[0]].append(point)
    return [p for own in kinds.values() for p in sorted({own[0], own[len(own) // 2], own[-1]})]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [pytest.param(True, marks=pytest.mark.conformance), False])
@pytest.mark.parametrize("job", JOBS)
def test_kill_at_every_write_point(job, server, base, every):
    with Store(base / "store") as store:
        old = store.alias("N").version
    count, since = JOBS[job]
    points = points_of(server, job, base, since)
    assert sum(not is_chance(point) for point in points) == count, points
    seen = collections.Counter()
    for point in points if every else thinned(points):
        root = base / point.replace(":", "-")
        shutil.copytree(base / "store", root)
        code, _ = server.run(job, root, base / "data.npz", point)
        assert code == -signal.SIGKILL or (seals(point) and code == 0), point
        before = look(root, old)
        with Store(root) as store:
            began = bool(history(store, "N"))
        assert server.run("resume", root, base / "data.npz")[0] == 0, point
        after = look(root, old)
        with Store(root) as store:
            assert store.database.select("SELECT * FROM pins") == [], point
            steps = history(store, "N")
            assert not began or steps[-1]["step"] in ("done", "returned"), point
            wanted = "faulty" if steps and steps[-1]["step"] == "done" else "fake"
            assert after == wanted, point
            age(root)
            store.gc(grace=0, keep=5)
            report = store.verify()
            assert report.ok and report.leftovers == 0, (point, report)
        seen[before, after] += 1
        shutil.rmtree(root)
    assert ("fake", "faulty") in seen or job != "migrate"
    assert ("faulty", "faulty") in seen or job == "unequal", "some lie after the switch"


def test_of_processes_that_migrate_at_once_exactly_one_does(base, folder):
    root = folder / "raced"
    shutil.copytree(base / "store", root)
    racers = [
        subprocess.Popen(
            [sys.executable, str(JOB), "migrate", str(root), str(base / "data.npz")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [racer.communicate(timeout=120) for racer in racers]
    codes = sorted(racer.returncode for racer in racers)
    assert codes == [0, 1, 1], said
    for racer, (_, err) in zip(racers, said, strict=True):
        # One that comes late finds it done.
        assert racer.returncode == 0 or "LPT-MIG-008" in err or "LPT-MIG-002" in err, err
    with Store(root) as store:
        assert store.alias("N").generation == 2
        assert store.verify().ok


def age(root):
    """Make every file old enough for a collection."""
    old = time.time() - 10 * 86_400
    for path in Path(root).rglob("*"):
        os.utime(path, (old, old))


def test_every_point_of_a_migration_is_declared_and_passed(server, base):
    reached = {name.partition(":")[0] for name in points_of(server, "migrate", base, "")}
    assert {point for point in POINTS if point.startswith("migrate.")} <= reached


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_in_the_middle(base, small_disk, tmp_path):
    sys.path.insert(0, str(JOB.parent))
    try:
        from migrate_job import make_hooks
    finally:
        sys.path.remove(str(JOB.parent))
    with Store(base / "store") as store:
        old = store.alias("N").version
    hooks, codes = make_hooks(), collections.Counter()
    root = small_disk / "store"
    work = tmp_path / "scratch"
    work.mkdir()
    for room in range(0, 240_000, 20_000):
        shutil.copytree(base / "store", root)
        filler = small_disk / "filler"
        filler.write_bytes(b"\0" * max(0, shutil.disk_usage(small_disk).free - room))
        options = {
            "store": str(root), "data": str(base / "data.npz"), "watch": 0, "latency_seconds": 0,
        }  # fmt: skip
        request = types.MigrateRequest("N", "faulty", options=options)
        model = types.Model("deployment", "N")
        try:
            hooks.migrate(model, request, Context(work))
            codes["done"] += 1
        except StorageError as error:
            codes[error.code] += 1
        filler.unlink()
        look(root, old)
        with Store(root) as store:
            unfinished = [s["step"] for s in history(store, "N")][-1:]
        if unfinished and unfinished[0] not in ("done", "returned"):
            resumed = types.MigrateRequest("N", "", options={**options, "resume": True})
            hooks.migrate(model, resumed, Context(work))
        look(root, old)
        with Store(root) as store:
            assert store.database.select("SELECT * FROM pins") == []
        shutil.rmtree(root)
    assert codes["LPT-IO-001"] >= 4, codes
