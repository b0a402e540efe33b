"""A deployment follows its alias without failing a call, and measures itself in bounded memory."""

import math
import random
import threading
import time

import numpy as np
import pytest

import lepton_core
from lepton_core import types
from lepton_core.context import Context
from lepton_core.deployment._telemetry import BUCKETS, Recorder, bucket_of, middle_of
from lepton_core.dispatch import Hooks
from lepton_core.errors import LeptonError, SessionError, StorageError, UsageError
from lepton_core.store import Store
from lepton_core.testing.fake_target import write_graph

X = np.ones((2, 4), np.float32)


@pytest.fixture
def hooks(fake_registry):
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    fake_registry.register(plugin, INFO)
    return Hooks(fake_registry)


@pytest.fixture
def build(tmp_path, hooks):
    """Make an artifact whose answer is *factor* times the sum of its inputs."""

    def make(factor, width=4, precision="fp32"):
        folder = tmp_path / f"build-{factor}-{width}"
        folder.mkdir(exist_ok=True)
        layers = [{"op": "linear", "weight": np.full((1, width), factor), "bias": np.zeros(1)}]
        path = write_graph(folder / "net.fake", width, layers)
        model = hooks.inspect(
            types.Model("fake-graph", str(path)), types.InspectRequest(), Context(folder)
        ).model
        request = types.ConvertRequest("fake", precision=precision)
        return hooks.convert(model, request, Context(folder)).model

    return make


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


def put(store, model, **options):
    return store.add("N", model, target="fake", **{"alias": "production", **options})


def open_it(store, hooks, reference="N", **options):
    return lepton_core.deployment(
        reference, store=store, hooks=hooks, **{"poll_seconds": None, **options}
    )


def test_the_function_is_there_whatever_was_imported_first():
    import importlib

    module = importlib.import_module("lepton_core.deployment")
    assert callable(lepton_core.deployment)
    assert lepton_core.deployment is module
    assert "deployment" in lepton_core.__all__


def test_runs_what_the_alias_points_to_and_follows_it(store, hooks, build):
    first = put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        assert deployed.version == first.version.id
        assert deployed.run({"x": X})["y"].tolist() == [[4.0], [4.0]]
        assert deployed.check() is False
        second = put(store, build(2.0))
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
        assert deployed.check() is True
        assert deployed.version == second.version.id
        assert deployed.run({"x": X})["y"][0, 0] == 8.0
        store.rollback("N")
        assert deployed.check() is True
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
        assert deployed.swaps == 2
        assert list((store.path / "views").iterdir())
    assert not list((store.path / "views").iterdir())
    with pytest.raises(SessionError, match="LPT-DEP-001"):
        deployed.run({"x": X})
    deployed.close()


def test_a_version_reference_never_moves(store, hooks, build):
    first = put(store, build(1.0))
    with open_it(store, hooks, f"N@{first.version.id[:8]}") as deployed:
        put(store, build(2.0))
        assert deployed.check() is False
        assert deployed.run({"x": X})["y"][0, 0] == 4.0


def test_the_watcher_swaps_by_itself(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks, poll_seconds=0.01) as deployed:
        second = put(store, build(2.0))
        until = time.monotonic() + 10
        while deployed.version != second.version.id and time.monotonic() < until:
            time.sleep(0.01)
        assert deployed.run({"x": X})["y"][0, 0] == 8.0


def test_no_call_fails_while_it_swaps(store, hooks, build):
    versions = [put(store, build(f)).version.id for f in (1.0, 2.0, 3.0)]
    allowed = {4.0, 8.0, 12.0}
    stop = threading.Event()
    problems, counts = [], []

    def call():
        number = 0
        try:
            while not stop.is_set():
                value = float(deployed.run({"x": X})["y"][0, 0])
                assert value in allowed, value
                number += 1
        except BaseException as error:
            problems.append(error)
        counts.append(number)

    with open_it(store, hooks, poll_seconds=0.005) as deployed:
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(24):
            store.promote("N", versions[number % 3])
            time.sleep(0.03)
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems
        assert deployed.swaps >= 8
        stats = deployed.stats()
        assert sum(s.calls for s in stats.values()) == sum(counts)
        assert sum(s.errors for s in stats.values()) == 0
    assert len(counts) == 4 and min(counts) > 50


def test_calls_under_way_end_on_the_old_session(store, hooks, build, monkeypatch):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        inside, go_on = threading.Event(), threading.Event()
        session = deployed._table.main.session
        run, close, closed = session.run, session.close, []

        def slow(inputs):
            inside.set()
            assert go_on.wait(20)
            assert not closed, "closed under a call"
            return run(inputs)

        def shut():
            closed.append(True)
            close()

        monkeypatch.setattr(session, "run", slow)
        monkeypatch.setattr(session, "close", shut)
        answers = []
        caller = threading.Thread(target=lambda: answers.append(deployed.run({"x": X})))
        caller.start()
        assert inside.wait(20)
        put(store, build(2.0))
        swapper = threading.Thread(target=deployed.check)
        swapper.start()
        until = time.monotonic() + 20
        while deployed.swaps == 0 and time.monotonic() < until:
            time.sleep(0.005)
        assert deployed.run({"x": X})["y"][0, 0] == 8.0
        assert not closed
        go_on.set()
        caller.join()
        swapper.join()
        assert answers[0]["y"][0, 0] == 4.0
        assert closed


def damage(store, version):
    path = store.cas.path(version.role("model")[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_damaged_version_does_not_take_over(store, hooks, build):
    first = put(store, build(1.0))
    heard = []
    with open_it(store, hooks, on_alarm=heard.append) as deployed:
        second = put(store, build(2.0))
        damage(store, second.version)
        assert deployed.check() is False
        assert deployed.version == first.version.id
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
        assert [a.code for a in deployed.alarms] == ["LPT-STORE-004"]
        assert deployed.alarms[0].version == second.version.id
        assert heard == list(deployed.alarms)
        rows = store.ledger(kind="deployment.alarm")
        assert [r.details["code"] for r in rows] == ["LPT-STORE-004"]
        deployed.check()
        assert len(deployed.alarms) == 1, "the same trouble is reported once"
        third = put(store, build(3.0))
        assert deployed.check() is True
        assert deployed.version == third.version.id
    with pytest.raises(StorageError, match="LPT-STORE-004"):
        open_it(store, hooks, f"N@{second.version.id}")


def test_a_version_with_another_signature_does_not_take_over(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        wide = put(store, build(1.0, width=6))
        assert deployed.check() is False
        assert [a.code for a in deployed.alarms] == ["LPT-DEP-002"]
        assert "float32[batch, 4]" in deployed.alarms[0].message
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
    with open_it(store, hooks, allow_signature_change=True) as deployed:
        assert deployed.version == wide.version.id


def test_a_version_that_does_not_open_does_not_take_over(store, hooks, build, tmp_path):
    put(store, build(1.0))
    broken = tmp_path / "broken.fake"
    broken.write_text("{}")
    with open_it(store, hooks) as deployed:
        put(store, types.Model("fake", str(broken)))
        assert deployed.check() is False
        assert deployed.alarms[0].kind == "swap"
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
        assert len(list((store.path / "views").iterdir())) == 1, "the failed view is gone"


def test_a_store_out_of_reach_raises_one_alarm_and_nothing_else(store, hooks, build, monkeypatch):
    put(store, build(1.0))
    with open_it(store, hooks, poll_seconds=0.01) as deployed:

        def fail(*_):
            raise StorageError("LPT-STORE-005", "busy")

        monkeypatch.setattr(store, "watch", fail)
        until = time.monotonic() + 10
        while not deployed.alarms and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert [a.code for a in deployed.alarms] == ["LPT-STORE-005"]
        assert deployed.run({"x": X})["y"][0, 0] == 4.0
        monkeypatch.undo()
        second = put(store, build(2.0))
        until = time.monotonic() + 10
        while deployed.version != second.version.id and time.monotonic() < until:
            time.sleep(0.01)
        assert deployed.version == second.version.id


def test_settings_open_the_session_anew(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        store.set_setting("N", "open", {"threads": 3})
        assert deployed.check() is True
        assert deployed.facts["threads"] == 3
    with open_it(store, hooks, threads=1) as deployed:
        assert deployed.facts["threads"] == 1


@pytest.mark.parametrize(
    ("reference", "code"),
    [("M", "LPT-STORE-007"), ("N@beta", "LPT-STORE-009"), ("N@v0000", "LPT-STORE-008"),
     ("../N", "LPT-STORE-006"), ("N@", "LPT-STORE-006")],
)  # fmt: skip
def test_references_that_lead_nowhere(store, hooks, build, reference, code):
    put(store, build(1.0))
    with pytest.raises(UsageError) as caught:
        open_it(store, hooks, reference)
    assert caught.value.code == code


def test_there_is_no_store(tmp_path, hooks):
    with pytest.raises(StorageError, match="LPT-STORE-002"):
        open_it(tmp_path / "none", hooks)
    assert not (tmp_path / "none").exists()


# --- measurements ------------------------------------------------------------------------------


def test_buckets_are_in_order_and_narrow():
    rng = random.Random(0)
    durations = sorted(rng.randrange(1, 10 ** rng.randrange(1, 13)) for _ in range(5000))
    buckets = [bucket_of(d) for d in durations]
    assert buckets == sorted(buckets)
    assert min(buckets) >= 0 and max(buckets) < BUCKETS
    assert bucket_of(1 << 70) == BUCKETS - 1
    for duration, bucket in zip(durations, buckets, strict=True):
        assert abs(middle_of(bucket) - duration) <= max(0.5, 0.032 * duration)


def test_quantiles_are_those_of_numpy_within_a_bucket():
    rng = np.random.default_rng(1)
    durations = (rng.lognormal(13, 1, 20_000)).astype(np.int64)
    recorder = Recorder()
    for duration in durations.tolist():
        recorder.add(duration)
    from lepton_core.deployment._telemetry import _stats

    stats = _stats("v", recorder)
    for q in (0.01, 0.5, 0.95, 0.99, 0.999):
        expected = np.quantile(durations, q) / 1e6
        assert math.isclose(stats.quantile_ms(q), expected, rel_tol=0.04), q
    assert math.isclose(stats.mean_ms, durations.mean() / 1e6, rel_tol=1e-9)


def test_errors_are_counted_and_the_last_are_kept_without_inputs(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        for _ in range(25):
            with pytest.raises(LeptonError):
                deployed.run({"x": X[:, :3]})
        deployed.run({"x": X})
        stats = deployed.stats()[deployed.version]
        assert (stats.calls, stats.errors) == (1, 25)
        assert len(deployed.errors) == 20
        assert deployed.errors[-1].code == "FAKE-RUN-003"
        snapshot = deployed.snapshot()
        assert snapshot["versions"][0]["calls"] == 1
        assert snapshot["errors"][0]["type"] == "SessionError"


def test_counters_of_threads_that_ended_are_kept_in_bounded_memory(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        for _ in range(60):
            thread = threading.Thread(target=deployed.run, args=({"x": X},))
            thread.start()
            thread.join()
        assert deployed.stats()[deployed.version].calls == 60
        assert len(deployed._telemetry._lanes) <= 2


def test_threads_that_python_did_not_start_hand_in_too(store, hooks, build):
    import _thread

    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        for _ in range(20):
            ended = threading.Event()

            def work(ended=ended):
                deployed.run({"x": X})
                ended.set()

            _thread.start_new_thread(work, ())
            assert ended.wait(20)
            time.sleep(0.01)
        assert deployed.stats()[deployed.version].calls == 20
        assert len(deployed._telemetry._lanes) <= 5


def test_only_the_last_versions_are_measured(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        for number in range(12):
            put(store, build(2.0 + number))
            assert deployed.check()
            deployed.run({"x": X})
        assert len(deployed.stats()) == 8
        assert all(len(lane.recorders) <= 9 for lane in deployed._telemetry._lanes)


def test_measurements_are_flushed_as_differences(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks, flush_seconds=3600.0) as deployed:
        for _ in range(5):
            deployed.run({"x": X})
        assert deployed.flush() == 1
        assert deployed.flush() == 0
        for _ in range(3):
            deployed.run({"x": X})
    rows = store.metrics.read("N")
    assert [r.data["calls"] for r in rows] == [5, 3]
    assert all(r.data["p50_ms"] > 0 and sum(r.data["buckets"].values()) for r in rows)
    assert store.verify().ok


def test_nothing_is_flushed_unless_asked(store, hooks, build):
    put(store, build(1.0))
    with open_it(store, hooks) as deployed:
        deployed.run({"x": X})
    assert store.metrics.read("N") == ()
    assert not (store.path / "metrics.db").exists()
