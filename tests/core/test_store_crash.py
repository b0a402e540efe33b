"""A store survives kill -9 at every write point, full disks, and a crowd."""

import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lepton_core.errors import LeptonError
from lepton_core.store import Store
from lepton_core.store._failpoints import POINTS
from lepton_core.types import Model

resource = pytest.importorskip("resource")
JOB = Path(__file__).parents[1] / "data" / "store_job.py"
JOBS = {"deploy": 35, "promote": 8, "rollback": 8, "setting": 8, "gc": 27}
"""Every job with the number of write points that it passes: 86 in all."""


def start(job, root, extra="", failpoint=None, **options):
    env = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
    if failpoint:
        env["LEPTON_FAILPOINT"] = failpoint
    return subprocess.Popen(
        [sys.executable, str(JOB), job, str(root), str(extra)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(job, root, extra="", failpoint=None):
    process = start(job, root, extra, failpoint)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


class Server:
    """A process that forks for every job, so that each pays for no imports."""

    def __init__(self):
        self.process = start("server", "", stdin=subprocess.PIPE)

    def run(self, job, root, extra, failpoint=""):
        order = json.dumps([job, str(root), str(extra), failpoint])
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        traced = self.process.stdout.readline() if failpoint == "trace" else "[]"
        return int(self.process.stdout.readline()), json.loads(traced)

    def close(self):
        self.process.communicate(timeout=60)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def state(root):
    """Everything a user can see, without times."""
    with Store(root) as store:
        rows = [r for r in store.ledger() if r.kind != "gc.files"]
        return {
            "versions": {n: sorted(v.id for v in store.versions(n)) for n in store.names()},
            "aliases": store.aliases(),
            "settings": {n: store.settings(n) for n in store.names()},
            "rows": [(r.kind, r.name, json.dumps(r.details, sort_keys=True)) for r in rows],
        }


def age(root):
    """Make every file old enough for a collection."""
    old = time.time() - 10 * 86_400
    for path in Path(root).rglob("*"):
        os.utime(path, (old, old))


@pytest.fixture
def folder():
    """A folder in memory where there is one: a killed process tests no disk, and syncs are slow."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lepton-test-", dir=place) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A store with two versions behind an alias, one that nothing leads to, and an artifact."""
    folder = tmp_path_factory.mktemp("crash")
    for name in ("first", "second", "third", "lost"):
        (folder / f"{name}.bin").write_bytes(name.encode() * 5000)
    (folder / "recipe.json").write_text('{"steps": []}')
    with Store(folder / "store") as store:
        store.add("M", Model("fake", str(folder / "lost.bin")), target="fake")
        for name in ("first", "second"):
            store.add(
                "N", Model("fake", str(folder / f"{name}.bin")), target="fake", alias="production"
            )
    age(folder / "store")
    return folder


def traced(server, job, base, folder):
    """Return every (point, count) that a whole run of a job passes, and the state after it."""
    root = folder / f"{job}-whole"
    shutil.copytree(base / "store", root)
    code, reached = server.run(job, root, base, "trace")
    assert code == 0
    passed = collections.Counter()
    points = []
    for name in reached:
        passed[name] += 1
        points.append(f"{name}:{passed[name]}")
    return points, state(root)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", JOBS)
def test_kill_at_every_write_point_leaves_before_or_after(job, server, base, folder):
    before = state(base / "store")
    points, after = traced(server, job, base, folder)
    assert len(points) == JOBS[job], points
    seen = set()
    for point in points:
        root = folder / point.replace(":", "-")
        shutil.copytree(base / "store", root)
        assert server.run(job, root, base, point)[0] == -9, point
        now = state(root)
        assert now in (before, after), point
        seen.add(now == after)
        with Store(root) as store:
            report = store.verify()
            assert report.ok, (point, report.damage)
        if now == before:
            assert server.run(job, root, base)[0] == 0, point
            assert state(root)["aliases"] == after["aliases"], point
        age(root)
        with Store(root) as store:
            store.gc(grace=0, keep=5)
            report = store.verify()
            assert report.ok and report.leftovers == 0, (point, report)
    assert seen == {True, False}, "some points lie before the commit and some after it"


def test_kill_while_a_store_is_made(server, base, folder):
    points = [p for p in POINTS if p.startswith(("store.", "transaction.", "seal."))]
    for point in points:
        root = folder / point
        assert server.run("deploy", root, base, point)[0] == -9, point
        with Store(root) as store:
            assert store.verify().ok, point
            assert store.names() in ((), ("N",))
        assert server.run("deploy", root, base)[0] == 0, point


def test_the_environment_arms_a_point(base, folder):
    root = folder / "store"
    code, _, _ = run("deploy", root, base, "cas.half-written:2")
    assert code == -9
    with Store(root) as store:
        assert store.names() == ()
        assert store.verify().leftovers == 1


def test_every_declared_point_is_a_write_point_of_some_job(server, base, folder):
    reached = set(server.run("deploy", folder / "new", base, "trace")[1])
    for job in JOBS:
        shutil.copytree(base / "store", folder / job)
        reached |= set(server.run(job, folder / job, base, "trace")[1])
    # Only a collection after a crash finds leftovers.
    left = folder / "deploy" / "cas" / "sha256" / "ab" / ".new-x"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    age(folder / "deploy")
    reached |= set(server.run("gc", folder / "deploy", base, "trace")[1])
    engines = {p for p in POINTS if p.startswith(("adjust.", "migrate."))}
    assert reached == set(POINTS) - engines, "those of the engines have tests of their own"


def test_concurrent_promotions_have_one_winner(base, folder):
    root = folder / "store"
    shutil.copytree(base / "store", root)
    with Store(root) as store:
        versions = [v.id for v in store.versions("N")]
    for number in range(4):
        with Store(root) as store:
            generation = store.alias("N").generation
            other = next(v for v in versions if v != store.alias("N").version)
        go = folder / f"go-{number}"
        racers = [start("race", root, f"{generation},{other},{go}") for _ in range(3)]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        go.touch()
        said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
        assert said.count("won") == 1, said
        losers = [line for line in said if line != "won"]
        for line in losers:
            code, _, details = line.partition(" ")
            assert code == "LPT-STORE-010"
            assert json.loads(details)["present"]["generation"] == generation + 1
        with Store(root) as store:
            assert store.alias("N").generation == generation + 1
            assert store.verify().ok


def test_collection_is_safe_against_concurrent_deploys(tmp_path):
    root = tmp_path / "store"
    Store(root).close()
    workers = [start("churn", root, f"{tmp_path},{who},12") for who in "ab"]
    with Store(root) as store:
        while any(worker.poll() is None for worker in workers):
            store.gc(grace=0, keep=0)
        for worker in workers:
            out, err = worker.communicate()
            assert out == "done\n", err
        assert store.verify().ok


def limited():
    # SQLite and files alike: nothing may grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


# Another test of this process may have imported JAX, which warns of every fork.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_file_that_may_not_grow_leaves_the_store_unchanged(base, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(base / "store", root)
    before = state(root)
    big = tmp_path / "big"
    shutil.copytree(base, big, ignore=shutil.ignore_patterns("store"))
    (big / "third.bin").write_bytes(b"x" * 200_000)
    process = start("deploy", root, big, preexec_fn=limited)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "LPT-IO-001" in err
    assert state(root) == before
    with Store(root) as store:
        report = store.verify()
        assert report.ok and report.leftovers == 0


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


def test_a_full_disk_leaves_the_store_unchanged(base, small_disk):
    root = small_disk / "store"
    shutil.copytree(base / "store", root)
    before = state(root)
    codes = set()
    big = small_disk.parent / "big.bin"
    for size in (2_000_000, 600_000):
        big.write_bytes(os.urandom(size))
        with Store(root) as store, pytest.raises(LeptonError) as caught:
            store.add("N", Model("fake", str(big)), target="fake", alias="production")
            big.write_bytes(os.urandom(size))
            store.add("N", Model("fake", str(big)), target="fake", alias="production")
        codes.add(caught.value.code)
        if size == 2_000_000:
            assert state(root) == before
        with Store(root) as store:
            assert store.verify().ok
    assert codes == {"LPT-IO-001"}


def test_a_disk_that_fills_up_at_any_moment(base, small_disk):
    """Leave ever less room, so that every write in turn is the one that fails."""
    root = small_disk / "store"
    big = small_disk.parent / "some.bin"
    big.write_bytes(os.urandom(40_000))
    failed = 0
    for room in range(0, 200_000, 12_000):
        shutil.copytree(base / "store", root)
        before = state(root)
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(b"\0" * max(0, free - room))
        try:
            with Store(root) as store:
                store.add("N", Model("fake", str(big)), target="fake", alias="production")
        except LeptonError as error:
            failed += 1
            assert error.code == "LPT-IO-001", error
            filler.unlink()
            assert state(root) == before
        filler.unlink(missing_ok=True)
        with Store(root) as store:
            assert store.verify().ok
        shutil.rmtree(root)
    assert failed >= 5
