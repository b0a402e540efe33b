"""A store survives kill -9 at every write point, full disks, and a crowd."""

import collections
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_core.errors import LeptonError
from lepton_core.store import Store
from lepton_core.store._failpoints import POINTS
from lepton_core.types import Model

JOB = Path(__file__).parents[1] / "data" / "store_job.py"
JOBS = ("deploy", "promote", "rollback", "setting", "gc")


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


def traced(job, base, folder):
    """Return every (point, count) that a whole run of a job passes, and the state after it."""
    root = folder / f"{job}-whole"
    shutil.copytree(base / "store", root)
    code, out, err = run(job, root, base, "trace")
    assert code == 0, err
    passed = collections.Counter()
    points = []
    for name in json.loads(out.splitlines()[-1]):
        passed[name] += 1
        points.append(f"{name}:{passed[name]}")
    return points, state(root)


@pytest.mark.parametrize("job", JOBS)
def test_kill_at_every_write_point_leaves_before_or_after(job, base, tmp_path, record_property):
    before = state(base / "store")
    points, after = traced(job, base, tmp_path)
    assert len(points) >= 6, points
    record_property("write_points", len(points))
    seen = set()
    for point in points:
        root = tmp_path / point.replace(":", "-")
        shutil.copytree(base / "store", root)
        code, _, err = run(job, root, base, point)
        assert code == -9, (point, code, err)
        now = state(root)
        assert now in (before, after), point
        seen.add(now == after)
        with Store(root) as store:
            report = store.verify()
            assert report.ok, (point, report.damage)
        if now == before:
            code, _, err = run(job, root, base)
            assert code == 0, (point, err)
            assert state(root)["aliases"] == after["aliases"], point
        age(root)
        with Store(root) as store:
            store.gc(grace=0, keep=5)
            report = store.verify()
            assert report.ok and report.leftovers == 0, (point, report)
        shutil.rmtree(root)
    assert seen == {True, False}, "some points lie before the commit and some after it"


def test_kill_while_a_store_is_made(base, tmp_path):
    points = [p for p in POINTS if p.startswith(("store.", "transaction."))]
    killed = 0
    for point in points:
        root = tmp_path / point
        code, _, _ = run("deploy", root, base, point)
        killed += code == -9
        with Store(root) as store:
            assert store.verify().ok, point
            assert store.names() in ((), ("N",))
        code, _, err = run("deploy", root, base)
        assert code == 0, (point, err)
    assert killed == len(points)


def test_every_declared_point_is_a_write_point_of_some_job(base, tmp_path):
    reached = set()
    for job in JOBS:
        points, _ = traced(job, base, tmp_path)
        reached |= {p.partition(":")[0] for p in points}
    fresh = tmp_path / "fresh"
    _, out, _ = run("deploy", fresh, base, "trace")
    reached |= set(json.loads(out.splitlines()[-1]))
    # Only a collection after a crash finds leftovers.
    (fresh / "cas" / "sha256" / "ab").mkdir(exist_ok=True)
    (fresh / "cas" / "sha256" / "ab" / ".new-x").write_bytes(b"half")
    age(fresh)
    _, out, _ = run("gc", fresh, base, "trace")
    reached |= set(json.loads(out.splitlines()[-1]))
    assert reached == set(POINTS)


def test_concurrent_promotions_have_one_winner(base, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(base / "store", root)
    with Store(root) as store:
        versions = [v.id for v in store.versions("N")]
    for number in range(4):
        with Store(root) as store:
            generation = store.alias("N").generation
            other = next(v for v in versions if v != store.alias("N").version)
        go = tmp_path / f"go-{number}"
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


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits of POSIX")
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
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
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
