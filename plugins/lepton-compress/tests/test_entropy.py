"""The range estimator that keeps the distribution of values: entropy."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_kernels as lk
from lepton_compress._calibrate import BINS, check_estimator, observe
from lepton_compress._graph import Graph
from lepton_core.errors import OptimizeError
from lepton_core.samples import load_samples, match
from lepton_onnx import pivot


def ranges(graphs, context, tmp_path, rows, *estimators):
    base = graphs.build([graphs.node("Relu", ["x"], ["y"])], {}, shape=("n", rows.shape[1]))
    np.savez(tmp_path / "rows.npz", x=rows)
    samples = match(load_samples(str(tmp_path / "rows.npz")), pivot.signature(base.path))
    graph = Graph(pivot.load(base.path))
    return [observe(graph, ["x", "y"], samples, context, one, threads=1) for one in estimators]


def test_it_cuts_thin_tails_off_and_keeps_the_rest(graphs, context, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.laplace(size=(500, 64)).astype(np.float32)
    found, whole, squared = ranges(graphs, context, tmp_path, rows, "entropy", "minmax", "mse")
    assert whole["x"].observed == found["x"].observed
    low, high = found["x"].chosen_low, found["x"].chosen_high
    assert whole["x"].low < squared["x"].chosen_low < low < -5
    assert 5 < high < squared["x"].chosen_high < whole["x"].high
    assert ((rows < low) | (rows > high)).mean() < 0.001
    # A value of one sign has all 255 levels for it.
    positive = lk.HistogramObserver(BINS).update(np.maximum(rows, 0))
    limit = positive.entropy_threshold(255).high
    assert (found["y"].chosen_low, found["y"].chosen_high) == (0.0, pytest.approx(limit))


@pytest.mark.parametrize(("far", "cut"), [(40.0, True), (300.0, False)])
def test_it_cuts_outliers_off_unless_they_stretch_the_histogram(
    graphs, context, tmp_path, far, cut
):
    """It takes at least 128 bins; values that fill fewer of them cannot be told from each other."""
    rows = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    rows[7, 3] = far
    (found,) = ranges(graphs, context, tmp_path, rows, "entropy")
    assert (found["x"].chosen_high < 6) == cut


def test_without_outliers_it_keeps_almost_everything(graphs, context, tmp_path):
    rows = np.random.default_rng(1).uniform(-1, 1, (300, 64)).astype(np.float32)
    (found,) = ranges(graphs, context, tmp_path, rows, "entropy")
    assert found["x"].chosen_high > 0.9
    assert found["x"].chosen_low < -0.9


def test_its_name():
    assert check_estimator("entropy") == "entropy"
    with pytest.raises(OptimizeError):
        check_estimator("entropy:99")
