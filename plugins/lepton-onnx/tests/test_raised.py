"""Operators that mean something else later keep their numbers where a graph is raised."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lepton_core.errors import ConversionError
from lepton_onnx import pivot

ROW = np.array([0, 4, 8, 2, 6], "f4")


def resized(g, kind, scale, mode, opset):
    """One row that is scaled; before opset 9 the scales are an attribute."""
    scales = {"scales": [1.0, 1.0, 1.0, scale]} if opset < 9 else {}
    node = g.node(kind, ["x", "s"][: 1 if scales else 2], ["y"], mode=mode, **scales)
    return g.model(
        [node],
        [g.value("x", [1, 1, 1, 5])],
        [g.value("y", [1, 1, 1, int(scale * 5)])],
        [] if scales else [g.weight("s", np.array([1, 1, 1, scale], "f4"))],
        opset=opset,
        ir=4,
    )


@pytest.mark.parametrize("kind", ["Upsample@8", "Upsample@9", "Resize@10"])
@pytest.mark.parametrize(
    ("scale", "mode", "wanted"),
    [
        (2.0, "linear", [0, 2, 4, 6, 8, 5, 2, 4, 6, 6]),  # scaled from the first corner
        (1.6, "nearest", [0, 0, 4, 4, 8, 2, 2, 6]),
    ],
)
def test_sizes_are_changed_from_the_first_corner(kind, scale, mode, wanted, tmp_path, graphs, run):
    kind, _, opset = kind.partition("@")
    facts = pivot.freeze(resized(graphs, kind, scale, mode, int(opset)), tmp_path / "p.onnx")
    assert facts.opset == pivot.PIVOT_OPSET
    found = run(tmp_path / "p.onnx", {"x": ROW.reshape(1, 1, 1, 5)})["y"]
    np.testing.assert_allclose(found.reshape(-1), wanted, atol=1e-5)


def test_what_gets_smaller_is_rounded_up(tmp_path, graphs, run):
    pivot.freeze(resized(graphs, "Resize", 0.6, "nearest", 10), tmp_path / "p.onnx")
    found = run(tmp_path / "p.onnx", {"x": ROW.reshape(1, 1, 1, 5)})["y"]
    np.testing.assert_array_equal(found.reshape(-1), ROW[[0, 2, 4]])


def test_scales_that_are_no_constant_keep_the_opset(tmp_path, graphs):
    proto = resized(graphs, "Resize", 2.0, "nearest", 10)
    proto.graph.input.append(graphs.value("s", [4]))
    del proto.graph.initializer[:]
    facts = pivot.freeze(proto, tmp_path / "p.onnx")
    assert facts.opset == 10
    assert "how it rounds" in facts.opset_note


@pytest.mark.parametrize(("axis", "places"), [(1, [6]), (2, [2, 6]), (-1, [1, 2, 4, 6])])
def test_hardmax_over_all_axes_from_its_own_on(axis, places, tmp_path, graphs, run):
    proto = graphs.model(
        [graphs.node("Hardmax", ["x"], ["y"], axis=axis)],
        [graphs.value("x", ["n", 2, 2, 2])],
        [graphs.value("y", ["n", 2, 2, 2])],
        opset=11,
    )
    assert pivot.freeze(proto, tmp_path / "p.onnx").opset == pivot.PIVOT_OPSET
    x = np.array([1, 2, 3, 0, 4, 1, 9, 5], "f4").reshape(1, 2, 2, 2)
    assert np.flatnonzero(run(tmp_path / "p.onnx", {"x": x})["y"]).tolist() == places


def test_scales_of_groups_become_scales_of_channels(tmp_path, graphs, run):
    proto = graphs.model(
        [graphs.node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        [graphs.value("x", ["n", 4, 3])],
        [graphs.value("y", ["n", 4, 3])],
        [graphs.weight("s", np.array([2, 3], "f4")), graphs.weight("b", np.array([5, 7], "f4"))],
        opset=18,
    )
    assert pivot.freeze(proto, tmp_path / "p.onnx").opset == pivot.PIVOT_OPSET
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("f4")
    rows = x.reshape(2, 2, 6)
    plain = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    wanted = plain * np.array([[2], [3]]) + np.array([[5], [7]])
    found = run(tmp_path / "p.onnx", {"x": x})["y"]
    np.testing.assert_allclose(found.reshape(2, 2, 6), wanted, rtol=1e-4, atol=1e-5)


def test_scales_of_groups_in_a_branch_are_refused(tmp_path, graphs):
    """What a branch reads from outside has no shape there; guessing would give other numbers."""
    branches = {
        name: helper.make_graph(
            [graphs.node(*how, **more)], name, [], [graphs.value(how[2][0], ["n", 4, 3])]
        )
        for name, how, more in (
            ("then_branch", ("GroupNormalization", ["x", "s", "b"], ["in"]), {"num_groups": 2}),
            ("else_branch", ("Identity", ["x"], ["same"]), {}),
        )
    }
    proto = graphs.model(
        [graphs.node("If", ["c"], ["y"], **branches)],
        [graphs.value("x", ["n", 4, 3]), graphs.value("c", [], TensorProto.BOOL)],
        [graphs.value("y", ["n", 4, 3])],
        [graphs.weight("s", np.array([2, 3], "f4")), graphs.weight("b", np.array([5, 7], "f4"))],
        opset=18,
    )
    with pytest.raises(ConversionError, match="GroupNormalization") as caught:
        pivot.freeze(proto, tmp_path / "p.onnx")
    assert caught.value.code == "LPT-CONV-201"
    assert not (tmp_path / "p.onnx").exists()
