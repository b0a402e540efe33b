"""How values are observed: in few runs, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compress import _calibrate
from lepton_compress._calibrate import BATCH, observe, plan
from lepton_compress._graph import Graph
from lepton_core.samples import load_samples, match
from lepton_onnx import pivot


@pytest.fixture
def chain(graphs, tmp_path):
    """Three values of 64 numbers (256 bytes) each, and 40 rows."""
    base = graphs.build(
        [
            graphs.node("Relu", ["x"], ["a"]),
            graphs.node("Neg", ["a"], ["b"]),
            graphs.node("Exp", ["b"], ["y"]),
        ],
        {},
        shape=("n", 64),
    )
    rows = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    samples = match(load_samples(str(tmp_path / "rows.npz")), pivot.signature(base.path))
    return Graph(pivot.load(base.path)), samples


NAMES = ["a", "b", "y"]


@pytest.mark.parametrize(
    ("limit", "rows", "runs"),
    [
        (1 << 20, BATCH, [NAMES]),
        (3 * 256 * 5, 5, [NAMES]),  # fewer rows at once before further runs
        (3 * 256, 1, [NAMES]),
        (2 * 256, 1, [["a", "b"], ["y"]]),
        (1, 1, [["a"], ["b"], ["y"]]),
    ],
)
def test_large_values_take_fewer_rows_before_further_runs(chain, monkeypatch, limit, rows, runs):
    monkeypatch.setattr(_calibrate, "GROUP_BYTES", limit)
    graph, samples = chain
    assert plan(graph, NAMES, samples) == (runs, rows)


def test_ranges_do_not_depend_on_how_values_are_observed(chain, context, monkeypatch):
    graph, samples = chain
    found = []
    for number, limit in enumerate((1 << 20, 3 * 256 * 5, 1)):
        monkeypatch.setattr(_calibrate, "GROUP_BYTES", limit)
        place = context.workdir / str(number)
        place.mkdir()
        found.append(observe(graph, ["x", *NAMES], samples, _calibrate._inside(context, place)))
    assert found[0] == found[1] == found[2]
    assert found[0]["a"].observed == (0.0, float(samples.inputs["x"].max()))


def test_nothing_to_observe_inside_is_one_run_of_whole_batches(chain):
    graph, samples = chain
    assert plan(graph, [], samples) == ([[]], BATCH)
