"""How values are observed: in few runs, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_kernels as lk
from lepton_compress import _calibrate
from lepton_compress._calibrate import BATCH, observe, plan
from lepton_compress._graph import Graph
from lepton_compress._scales import affine
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


def test_a_limit_of_memory_leaves_outputs_a_share(chain):
    graph, samples = chain
    assert plan(graph, NAMES, samples, 8 * 3 * 256 * 5) == ([NAMES], 5)
    assert plan(graph, NAMES, samples, 1 << 40) == ([NAMES], BATCH)


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


def test_ranges_become_scales_by_the_rule_of_the_kernels():
    random = np.random.default_rng(0)
    for _ in range(600):
        low, high = np.sort(random.normal(0, 10.0 ** random.uniform(-6, 6), 2)).astype(np.float32)
        scale, zero = lk.scale_from_minmax(low, high, "int8")
        assert affine(low, high) == (float(str(scale[()])), int(zero))
    assert affine(0.0, 0.0) == (1.0, -128)
    assert affine(-1e-40, 1e-40) == (1.0, -128)  # no normal scale: as if it were empty
    assert affine(2.0, 4.0)[1] == -128
    # Divided in float64, as it was here, the zero point would be 121.
    assert affine(-3.082900285720825, 0.08063908666372299)[1] == 120
