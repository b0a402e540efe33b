"""What OpenVINO computes otherwise than ONNX is given to it in another form."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

RNG = np.random.default_rng(0)


def recurrent(g, kind, gates):
    """A layer whose batch comes first, with a first state."""
    node = g.node(kind, ["x", "W", "R", "B", "", "h"], ["y", "last"], hidden_size=4, layout=1)
    return g.model(
        [node],
        [g.value("x", [2, 3, 5]), g.value("h", [2, 1, 4])],
        [g.value("y", [2, 3, 1, 4]), g.value("last", [2, 1, 4])],
        [
            g.weight("W", RNG.normal(size=(1, 4 * gates, 5)).astype("f4")),
            g.weight("R", RNG.normal(size=(1, 4 * gates, 4)).astype("f4")),
            g.weight("B", RNG.normal(size=(1, 8 * gates)).astype("f4")),
        ],
    ), {"x": RNG.normal(size=(2, 3, 5)).astype("f4"), "h": RNG.normal(size=(2, 1, 4)).astype("f4")}


def padded(g):
    """A Pad whose value is an input of the model."""
    proto = g.model(
        [g.node("Pad", ["x", "pads", "v"], ["y"])],
        [g.value("x", [2, 3]), g.value("v", [])],
        [g.value("y", [3, 5])],
        [g.weight("pads", np.array([0, 2, 1, 0]))],
    )
    return proto, {"x": RNG.normal(size=(2, 3)).astype("f4"), "v": np.float32(1.5).reshape(())}


def test_a_largest_of_one(graphs, to_pivot, convert, opened):
    """OpenVINO leaves the operator out, and the name of its input with it."""
    ports = [graphs.value("x", [3])], [graphs.value("y", [3])]
    pivot = to_pivot(graphs.model([graphs.node("Max", ["x"], ["y"])], *ports))
    x = RNG.normal(size=3).astype("f4")
    assert np.array_equal(opened(convert(pivot).model).run({"x": x})["y"], x)


@pytest.mark.parametrize("value", [-np.inf, 1e8, np.nan])
def test_a_value_to_pad_with_changes_no_other(value, graphs, to_pivot, convert, opened):
    """Such as the minus infinity in front of a largest value."""
    proto, feed = padded(graphs)
    found = opened(convert(to_pivot(proto)).model).run(feed | {"v": np.float32(value).reshape(())})
    wanted = np.pad(feed["x"], ((0, 1), (2, 0)), constant_values=value)
    np.testing.assert_array_equal(found["y"], wanted)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "Pad"])
def test_it_gives_what_onnx_says(kind, graphs, to_pivot, convert, opened):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}
    proto, feed = padded(graphs) if kind == "Pad" else recurrent(graphs, kind, gates[kind])
    pivot = to_pivot(proto)
    found = opened(convert(pivot).model).run(feed)
    evaluator = ReferenceEvaluator(pivot.path)
    wanted = dict(zip(evaluator.output_names, evaluator.run(None, feed), strict=True))
    if kind != "Pad":  # the evaluator swaps the axes of the whole result alone
        del wanted["last"]
        np.testing.assert_allclose(found["last"], found["y"][:, -1], rtol=1e-5)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
