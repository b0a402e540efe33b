"""What a compressed model gains: words, the rule to do no harm, and a race of bounded effort."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_core import types
from lepton_core.dispatch import Hooks
from lepton_core.gains import Gain, measure_gain, no_gain_warning
from lepton_core.samples import Samples
from lepton_core.timing import feeds, race
from lepton_core.types import Target


@pytest.fixture
def samples():
    rng = np.random.default_rng(3)
    return Samples({"x": rng.normal(size=(37, 6)).astype(np.float32)})


@pytest.fixture
def source(graph_file, fake_registry, context):
    model = types.Model("fake-graph", str(graph_file))
    return Hooks(fake_registry).inspect(model, types.InspectRequest(), context).model


def raced(speedup, low, high):
    return {"before_ms": speedup, "after_ms": 1.0, "speedup": speedup, "interval": [low, high]}


@pytest.mark.parametrize(
    ("gain", "smaller", "faster", "words"),
    [
        (Gain(200, 100, raced(2, 1.9, 2.1)), True, True, "2.00x smaller than the float model, "
         "2.00x faster (1.90 to 2.10 at 95 %)"),
        (Gain(100, 121, raced(0.5, 0.4, 0.8)), False, False, "1.21x larger than the float model, "
         "2.00x slower (1.25 to 2.50 at 95 %)"),
        (Gain(100, 100, raced(1.4, 0.9, 1.8)), False, False, "of the same size as the float"),
        (Gain(100, 100, raced(1.4, 0.9, 1.8)), False, False, "a difference of chance"),
        (Gain(100, 110, raced(1.02, 1.01, 1.03)), False, False, "a difference of chance"),
        (Gain(100, 110, raced(0.99, 0.98, 0.995)), False, False, "a difference of chance"),
        (Gain(100, 50, {}, "no device"), True, False, "not timed: no device"),
    ],
)  # fmt: skip
def test_a_gain_is_beyond_chance_or_none(gain, smaller, faster, words):
    assert (gain.smaller, gain.faster, gain.any) == (smaller, faster, smaller or faster)
    assert words in gain.text
    assert bool(no_gain_warning(gain)) is not gain.any
    assert "known to be faster" in no_gain_warning(Gain(100, 120, {}, "no device"))
    data = gain.to_dict()
    assert (data["smaller"], data["faster"], data["text"]) == (smaller, faster, gain.text)
    assert (data["time"] is None) is (not gain.race)
    assert data["size_ratio"] == pytest.approx(gain.before / gain.after)


@pytest.mark.parametrize(
    ("seconds", "pairs", "most"), [(0.25, 21, 0.5), (2.0, 10, 3.5), (0.01, 7, 3.5)]
)
def test_a_race_takes_about_the_time_given_and_seven_rounds(
    source, samples, monkeypatch, seconds, pairs, most
):
    clock = [0.0]
    monkeypatch.setattr("lepton_core.timing.time.perf_counter", lambda: clock[0])
    once = 0.001 if pairs == 21 else 0.1

    class Clocked:
        calls = 0

        def run(self, inputs):
            clock[0] += once
            self.calls += 1
            return {"y": inputs["x"]}

    both = Clocked(), Clocked()
    found = race(both, feeds(source.signature, samples, 1), seconds=seconds)
    assert found["speedup"] == pytest.approx(1.0)
    if once == 0.1:
        assert both[0].calls == pairs + 4, "3 calls to warm up, 1 to find the calls of a turn"
    assert clock[0] <= most


def test_a_gain_is_measured_where_the_target_runs(fakes, source, samples, tmp_path, context):
    hooks = Hooks(fakes("ok"))
    found = measure_gain(
        hooks, (source, source), Target("fake"), context, samples=samples, seconds=0.05
    )
    assert found.inputs == "samples"
    low, high = found.race["interval"]
    assert 0 < low <= found.race["speedup"] <= high
    assert not found.smaller
    assert not measure_gain(hooks, (source, source), Target("fake"), context).race


def test_what_cannot_be_run_here_is_not_timed(fakes, source, tmp_path, context):
    gone = source.evolve(path=source.path, format="odd")
    found = measure_gain(Hooks(fakes("ok")), (source, gone), Target("fake"), context, seconds=0.05)
    assert found.race == {}
    assert found.untimed.startswith("LPT-OP-003")
    assert found.inputs == "random"
