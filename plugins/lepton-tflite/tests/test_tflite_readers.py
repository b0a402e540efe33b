"""A quantized value that several operators read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lepton_tflite._readers import one_reader_each

pytestmark = pytest.mark.xdist_group("tflite")

RNG = np.random.default_rng(0)
WEIGHT = (RNG.normal(size=(4, 3, 3, 3)) / 4).astype("f4")


def network(g):
    """The image of a convolution, read by two operators that want its channels first."""
    return g.model(
        [
            g.node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            g.node("Relu", ["c"], ["r"]),
            g.node("ReduceMean", ["r", "axes"], ["mean"], keepdims=0),
            g.node("ReduceMax", ["r", "axes"], ["most"], keepdims=0),
        ],
        [g.value("x", [2, 3, 8, 6])],
        [g.value("mean", [2, 4]), g.value("most", [2, 4])],
        [g.weight("w", WEIGHT), g.weight("axes", np.array([2, 3]))],
    )


def recipe_of(pivot, folder):
    scale = (np.abs(WEIGHT).max(axis=(1, 2, 3)) / 127).astype("f4")
    entry = {"dtype": "int8", "observed": [-1.0, 1.0], "estimator": "minmax",
             "rounding": "half-even"}  # fmt: skip
    data = {
        "schema": 1, "rules": 1, "written_by": "test", "scheme": "int8-static",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": None, "notes": [],
        "kept_float": {"mean": "for this test", "most": "for this test"},
        "tensors": {
            "x": {"kind": "activation", "scale": 0.03, "zero_point": 0, **entry},
            "r": {"kind": "activation", "scale": 0.04, "zero_point": -128, **entry},
            "w": {"kind": "weight", "scale": [float(s) for s in scale], "zero_point": 0,
                  "axis": 0, **entry},
        },
        "layers": {
            "c": {"op": "Conv", "output": "r", "inputs": ["x"], "mode": "static", "weight": "w",
                  "fused": ["r"]},
        },
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(data))
    return str(folder / "recipe.json")


def test_all_its_readers_get_it_in_their_layout(
    graphs, to_pivot, convert, opened, expected, tmp_path
):
    pivot = to_pivot(network(graphs))
    made = convert(pivot, recipe=recipe_of(pivot, tmp_path))
    x = RNG.uniform(-3, 3, (2, 3, 8, 6)).astype("f4")
    found, wanted = opened(made.model).run({"x": x}), expected(pivot, {"x": x})
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=0.1, err_msg=name)


def test_each_reader_gets_a_dequantization_of_its_own(graphs):
    node = graphs.node
    proto = graphs.model(
        [
            node("QuantizeLinear", ["x", "s"], ["q"]),
            node("DequantizeLinear", ["q", "s"], ["d"]),
            node("Add", ["d", "d"], ["a"]),
            node("Mul", ["a", "d"], ["y"]),
            node("DequantizeLinear", ["w", "s"], ["v"]),
            node("Add", ["v", "v"], ["z"]),
            node("QuantizeLinear", ["y", "s"], ["p"]),
            node("DequantizeLinear", ["p", "s"], ["once"]),
            node("Neg", ["once"], ["n"]),
        ],
        [graphs.value("x", [2])],
        [graphs.value("n", [2]), graphs.value("z", [2])],
        [graphs.weight("s", np.float32(1)), graphs.weight("w", np.ones(2, np.uint8))],
    )
    before = proto.SerializeToString()
    nodes = one_reader_each(proto).graph.node
    assert proto.SerializeToString() == before
    copies = ["d/for_0", "d/for_1", "d/for_2"]
    assert [n.output[0] for n in nodes] == ["q", *copies, "a", "y", "v", "z", "p", "once", "n"]
    assert [list(n.input) for n in nodes[4:6]] == [copies[:2], ["a", copies[2]]]
