"""Running a model over samples."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from lepton_core import types
from lepton_core.capabilities import Opens, TargetInfo
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    OperationCancelledError,
    PluginFailureError,
    SessionError,
    WorkerCrashError,
)
from lepton_core.evaluate import evaluate, evaluate_isolated
from lepton_core.markers import hookimpl
from lepton_core.samples import Samples, save
from lepton_core.timing import faster, feeds, measure, race


@pytest.fixture
def samples():
    rng = np.random.default_rng(3)
    return Samples({"x": rng.normal(size=(37, 6)).astype(np.float32)})


@pytest.fixture
def saved(samples, tmp_path):
    return str(save(samples, tmp_path / "samples"))


@pytest.fixture
def source(graph_file, fake_registry, context):
    model = types.Model("fake-graph", str(graph_file))
    return Hooks(fake_registry).inspect(model, types.InspectRequest(), context).model


def _expected(graph_file, samples):
    from lepton_core.testing import _fake_graph as work

    return work.run(work.read(str(graph_file)), samples.inputs["x"])


def test_outputs_are_those_of_the_session_row_by_row(
    fake_registry, source, samples, saved, graph_file, context, tmp_path, reporter
):
    request = types.EvaluateRequest("fake", saved, str(tmp_path / "out"), threads=3)
    result = evaluate(Hooks(fake_registry), source, request, context)
    assert result.rows == 37
    assert result.signature == source.signature
    assert result.facts["threads"] == 3
    assert result.latency == {}
    np.testing.assert_allclose(
        np.load(result.outputs["y"]), _expected(graph_file, samples), rtol=1e-6
    )
    assert reporter.tasks[-1].done == 37
    assert reporter.tasks[-1].finished is not None


def test_nothing_is_written_where_nothing_is_asked_for(fake_registry, source, saved, context):
    result = evaluate(
        Hooks(fake_registry), source, types.EvaluateRequest("fake", saved), context
    )  # fmt: skip
    assert result.outputs == {}
    assert list(context.workdir.iterdir()) == []


def test_in_a_worker_it_is_the_same(fakes, pool, source, saved, context, tmp_path):
    hooks = Hooks(fakes("ok"), pool)
    there = evaluate_isolated(
        hooks, source, types.EvaluateRequest("fake", saved, str(tmp_path / "there")), context
    )
    here = evaluate_isolated(
        Hooks(fakes("ok")),
        source,
        types.EvaluateRequest("fake", saved, str(tmp_path / "here")),
        context,
    )
    assert (there.rows, there.signature, there.facts) == (here.rows, here.signature, here.facts)
    assert np.load(there.outputs["y"]).tobytes() == np.load(here.outputs["y"]).tobytes()
    assert "fake" in pool._workers


def test_latency_is_measured_with_single_rows(fake_registry, source, saved, context):
    request = types.EvaluateRequest("fake", saved, latency_seconds=0.01)
    latency = evaluate(Hooks(fake_registry), source, request, context).latency
    assert latency["batch"] == 1
    assert latency["runs"] >= 20
    assert 0 < latency["p50_ms"] <= latency["p95_ms"]


def test_what_stands_for_a_device_is_not_timed(
    fake_registry, source, saved, context, tmp_path, monkeypatch
):
    from lepton_core.testing import _fake_graph as work

    opened = work.FakeSession.__init__

    def interpreted(self, *args, **kwargs):
        opened(self, *args, **kwargs)
        self.facts = {**self.facts, "device": types.REFERENCE_DEVICE}

    monkeypatch.setattr(work.FakeSession, "__init__", interpreted)
    point = types.TimingPoint(seconds=0.01)
    request = types.EvaluateRequest(
        "fake", saved, str(tmp_path / "out"), latency_seconds=0.01, timings=(point,)
    )
    result = evaluate(Hooks(fake_registry), source, request, context)
    assert result.outputs
    assert result.latency == {}
    assert result.timings == ()


def test_a_rival_is_timed_in_turns(pool, fakes, source, saved, context):
    request = types.EvaluateRequest("fake", saved, rival=source)
    for hooks in (Hooks(fakes("ok"), pool), Hooks(fakes("ok"))):
        found = evaluate_isolated(hooks, source, request, context)
        assert found.latency == {}
        low, high = found.race["interval"]
        assert 0 < low <= found.race["speedup"] <= high


def test_a_race_tells_the_ratio_of_times(source, samples, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lepton_core.timing.time.perf_counter", lambda: clock[0])

    class Clocked:
        def __init__(self, seconds):
            self.seconds = seconds

        def run(self, inputs):
            clock[0] += self.seconds
            return {"y": inputs["x"]}

    inputs = feeds(source.signature, samples, 1)
    found = race((Clocked(0.004), Clocked(0.001)), inputs)
    assert found["speedup"] == pytest.approx(4)
    assert found["interval"] == pytest.approx([4, 4])
    assert (found["before_ms"], found["after_ms"]) == pytest.approx((4, 1))
    assert faster(found) == "4.00x faster (4.00 to 4.00 at 95 %)"
    assert not faster(race((Clocked(0.001), Clocked(0.004)), inputs))
    assert not faster({})


class Slow:
    """A session whose runs take a known time."""

    def __init__(self, signature, seconds):
        self.signature, self.facts, self.seconds, self.seen = signature, {}, seconds, []

    def run(self, inputs):
        import time

        time.sleep(self.seconds)
        self.seen.append(inputs["x"].shape[0])
        return {"y": inputs["x"]}


def test_latency_tells_the_time_of_a_run(source, samples):
    session = Slow(source.signature, 0.004)
    latency = measure(session, samples, types.TimingPoint(seconds=0.01))
    assert latency["runs"] == 20, "no fewer than 20, however short the time"
    assert len(session.seen) == 25, "after a warm-up"
    assert set(session.seen) == {1}
    assert 4 <= latency["p50_ms"] < 40


def test_calls_of_many_rows_are_timed_whole_in_parts_and_from_several_threads(source, samples):
    session = Slow(source.signature, 0.002)
    point = types.TimingPoint(rows=8, batch=3, callers=2, seconds=0.01)
    timed = measure(session, samples, point)
    assert set(session.seen) == {3, 2}, "8 rows are run as 3, 3 and 2"
    assert timed["batch"] == 8 and timed["p50_ms"] >= 6
    assert timed["runs"] >= 10, "each of two callers calls five times at least"
    assert 0 < timed["rows_per_s"] < 2 * 8 / 0.006, "no more than two callers can"
    few = samples.rows([0, 1])
    assert measure(session, few, types.TimingPoint(rows=8, seconds=0.0))["batch"] == 8


def test_timings_and_memory_come_back_from_an_evaluation(source, saved, fake_registry, tmp_path):
    hooks, context = Hooks(fake_registry), Context(tmp_path)
    points = (types.TimingPoint(seconds=0.0), types.TimingPoint(rows=16, seconds=0.0))
    adapted = hooks.adapt(source, types.AdaptRequest("fake"), context).model
    built = hooks.convert(adapted, types.ConvertRequest("fake"), context).model
    request = types.EvaluateRequest("fake", saved, timings=points, memory=True)
    result = evaluate(hooks, built, request, context)
    assert [t["batch"] for t in result.timings] == [1, 16]
    assert result.memory_bytes >= 0 and result.latency == {}


class Faulty:
    """Opens sessions that fail in a way of our choice."""

    def __init__(self, error):
        self.error, self.closed = error, []

    @hookimpl
    def lepton_open(self, model, request, context):
        faulty = self

        class Session:
            signature, facts = model.signature, {}

            def run(self, inputs):
                raise faulty.error

            def close(self):
                faulty.closed.append(True)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.close()

        return Session()


@pytest.fixture
def faulty(fake_registry):
    def make(**options):
        plugin = Faulty(**options)
        info = TargetInfo("faulty", "Faulty", "tests", opens=(Opens("fake-graph"),))
        fake_registry.register(plugin, info)
        return plugin, Hooks(fake_registry)

    return make


def test_running_out_of_memory_is_said_so(faulty, source, saved, context, tmp_path):
    _, hooks = faulty(error=MemoryError())
    request = types.EvaluateRequest("faulty", saved, str(tmp_path / "out"))
    with pytest.raises(WorkerCrashError, match="memory") as caught:
        evaluate_isolated(hooks, source, request, context)
    assert caught.value.code == "LPT-WORK-004"


def test_an_unexpected_failure_of_a_run_is_the_plugins(faulty, source, saved, context, tmp_path):
    plugin, hooks = faulty(error=ZeroDivisionError("in a kernel"))
    request = types.EvaluateRequest("faulty", saved, str(tmp_path / "out"))
    with pytest.raises(PluginFailureError, match="in a kernel") as caught:
        evaluate_isolated(hooks, source, request, context)
    assert caught.value.code == "LPT-PLUG-010"
    assert "faulty" in str(caught.value)
    assert plugin.closed == [True], "the session is closed all the same"


def test_an_expected_failure_comes_through(faulty, source, saved, context, tmp_path):
    _, hooks = faulty(error=SessionError("ACME-RUN-001", "refused"))
    request = types.EvaluateRequest("faulty", saved, str(tmp_path / "out"))
    with pytest.raises(SessionError, match="refused"):
        evaluate_isolated(hooks, source, request, context)


def test_it_stops_when_asked(fake_registry, source, saved, context, tmp_path):
    event = threading.Event()
    event.set()
    request = types.EvaluateRequest("fake", saved, str(tmp_path / "out"))
    with pytest.raises(OperationCancelledError):
        evaluate(Hooks(fake_registry), source, request, replace(context, cancelled=event))


def test_stages_are_announced(fake_registry, source, saved, context):
    from lepton_core.capabilities import ExtensionInfo

    events = []

    class Watch:
        @hookimpl
        def lepton_stage_finished(self, event):
            events.append((event.stage, event.owner, event.status))

    fake_registry.register(Watch(), ExtensionInfo("watch", "Watch", "tests", always=True))
    evaluate_isolated(
        Hooks(fake_registry), source, types.EvaluateRequest("fake", saved), context
    )  # fmt: skip
    assert events == [("open", "fake", "ok"), ("evaluate", "fake", "ok")]
