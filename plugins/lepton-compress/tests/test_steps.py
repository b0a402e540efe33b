"""The time that a run of the engine still takes: told from the first measured step to the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_core import remaining
from lepton_core.context import SilentReporter
from lepton_core.types import OptimizeRequest


class Told(SilentReporter):
    """Keeps what it is told, with the bars that were drawn before."""

    def __init__(self):
        self.bars, self.told, self.boards = [], [], []

    def task(self, description, total=None):
        self.bars.append(description)
        return super().task(description, total)

    def remaining(self, seconds, share=0.0, *, whole=True):
        self.told.append((seconds, share, whole, list(self.bars)))

    def board(self, title, columns, rows):
        self.boards.append((title, columns, rows))


@pytest.fixture
def net(graphs):
    node, rand = graphs.node, graphs.rand
    nodes = [
        node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]), node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": rand(8, 3, 3, 3), "w2": rand(512, 64), "b2": rand(64)}
    return graphs.build(nodes, weights, shape=("n", 3, 8, 8))


@pytest.fixture
def samples(tmp_path):
    rows = np.random.default_rng(0).standard_normal((90, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    return str(tmp_path / "rows.npz")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ({"precision": "int8"}, "calibrate", "time it beside the float model"),
        ({"precision": "int8", "max_drop": 1.0, "options": {"recover": "none"}}, "run", ""),
        pytest.param(
            {"precision": "int4"},
            "round",
            "time it beside the float model",
            marks=pytest.mark.conformance,
        ),
        ({"precision": "mixed", "max_size": 0.9}, "sensitivity", "time it beside the float model"),
    ],
)
def test_a_run_tells_what_is_left_of_all_its_steps(
    net, samples, context, asked, first, last, monkeypatch
):
    monkeypatch.setattr(remaining, "_EVERY_SECONDS", 0.0)  # small runs may be over before that
    told = Told()
    monitored = replace(context, reporter=told)
    request = OptimizeRequest("onnxruntime", samples=samples, timing_seconds=0.05, **asked)
    monitored.hooks.optimize(net, request, monitored)
    seen = [one for one in told.told if one[0] is not None]
    assert seen, "something was told"
    assert all(seconds >= 0 and 0 <= share <= 1 for seconds, share, *_ in seen)
    assert told.told[-1][0] is None, "and taken down at the end"
    assert any(bar.startswith(first) for bar in told.bars)
    assert told.bars[-1].startswith(last)
    if "max_drop" in asked:
        title, columns, rows = told.boards[0]
        assert title == "1 candidates" and len(rows) == 2
        assert all(len(row) == len(columns) for row in rows)
        assert told.boards[-1][2] == []


def test_a_part_of_somebody_elses_run_tells_nothing(net, samples, context):
    told = Told()
    monitored = replace(context, reporter=told)
    request = OptimizeRequest("onnxruntime", samples=samples, options={"recipe_only": True})
    monitored.hooks.optimize(net, request, monitored)
    assert told.bars
    assert all(one[0] is None for one in told.told)
