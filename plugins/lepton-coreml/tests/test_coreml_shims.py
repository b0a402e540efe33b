"""Each shim cures the error it names, and is still needed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError
from lepton_coreml._build import build
from lepton_coreml._coremltools import coremltools
from lepton_coreml._frontend import boundary, export
from lepton_coreml._prove import run_once
from lepton_coreml._shims import SHIMS
from lepton_onnx import pivot


def lstm(g, states=False):
    rng = np.random.default_rng(0)
    nodes, inputs = [], ["x", "W", "R", "B"]
    if states:  # open sizes of the states: they follow from the input's
        nodes = [
            g.node("Shape", ["x"], ["sizes"]),
            g.node("Gather", ["sizes", "one"], ["batch"]),
            g.node("Concat", ["two", "batch", "four"], ["shape"], axis=0),
            g.node("Expand", ["nought", "shape"], ["start"]),
        ]
        inputs += ["", "start", "start"]
    nodes.append(g.node("LSTM", inputs, ["y"], hidden_size=4, direction="bidirectional"))
    return g.model(
        nodes,
        [g.value("x", [6, "batch", 3])],
        [g.value("y", [6, 2, "batch", 4])],
        [
            g.weight("W", rng.normal(size=(2, 16, 3)).astype("f4")),
            g.weight("R", rng.normal(size=(2, 16, 4)).astype("f4")),
            g.weight("B", rng.normal(size=(2, 32)).astype("f4")),
            g.weight("one", np.array([1])),
            g.weight("two", np.array([2])),
            g.weight("four", np.array([4])),
            g.weight("nought", np.zeros((1, 1, 1), "f4")),
        ][: 7 if states else 3],
    )


def scalar_where(g):
    """A negative index that is constant: the bridge corrects it by a Where of scalars."""
    return g.model(
        [g.node("Gather", ["x", "last"], ["y"], axis=1)],
        [g.value("x", ["batch", 5, 3])],
        [g.value("y", ["batch", 3])],
        [g.weight("last", np.asarray(-1))],
    )


def wide_where(g):
    return g.model(
        [g.node("Where", ["c", "high", "low"], ["y"])],
        [g.value("c", ["batch", 4], TensorProto.BOOL)],
        [g.value("y", ["batch", 4])],
        [g.weight("high", np.array(2, "f4")), g.weight("low", np.array(-3, "f4"))],
    )


def two_products(g):
    weight = np.random.default_rng(0).integers(-8, 8, (16, 16)).astype("f4")
    return g.model(
        [
            g.node("MatMul", ["x", "w"], ["h"]),
            g.node("Relu", ["h"], ["r"]),
            g.node("MatMul", ["r", "v"], ["y"]),
        ],
        [g.value("x", ["batch", 16])],
        [g.value("y", ["batch", 16])],
        [g.weight("w", weight), g.weight("v", weight)],
    )


def masked(proto):
    """Give both weights integers with a mask, as a recipe does."""
    nodes = []
    for tensor in list(proto.graph.initializer):
        name, codes = tensor.name, numpy_helper.to_array(tensor).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}/int8"))
        scale = numpy_helper.from_array(np.array(0.5, "f4"), f"{name}/scale")
        mask = numpy_helper.from_array((codes != 0).astype(np.uint8), f"{name}/mask")
        proto.graph.initializer.extend([scale, mask])
        parts = [f"{name}/int8", scale.name, "", mask.name]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}/back"))
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    return proto


GRAPHS = {
    "lstm.input": lstm,
    "where of scalars": scalar_where,
    "expand to open sizes": lambda g: lstm(g, states=True),
    "where with a larger condition": wide_where,
    "equal constants with a mask": two_products,
}
LOWERED = {"equal constants with a mask": masked}
"""What is written into a pivot first."""


def attempt(proto, folder, without):
    folder.mkdir()
    exported = export(boundary(proto), dynamic=True, max_batch=8, max_size=8)
    out = folder / "raw.mlpackage"
    build(exported, out, device="ios18", half=False, without=without)
    run_once(out)


@pytest.mark.parametrize("shim", SHIMS, ids=lambda shim: shim.name)
def test_a_shim_cures_an_error_that_is_still_there(shim, graphs, tmp_path):
    """If the second half fails, coremltools no longer needs this shim: remove it."""
    proto = pivot.load(graphs.to_pivot(GRAPHS[shim.name](graphs), tmp_path / "pivot").path)
    proto = LOWERED.get(shim.name, lambda whole: whole)(proto)
    attempt(proto, tmp_path / "with", ())
    with pytest.raises(ConversionError) as caught:
        attempt(proto, tmp_path / "without", (shim.name,))
    assert shim.error in f"{caught.value.message} {caught.value.cause}", shim.cause


def test_every_shim_has_a_graph():
    assert [shim.name for shim in SHIMS] == list(GRAPHS)


def test_the_shims_belong_to_this_version():
    assert coremltools().__version__ == "9.0"


def test_shims_leave_nothing_behind():
    from lepton_coreml._integers import Names
    from lepton_coreml._shims import _registry, installed

    coremltools()
    from coremltools.converters.mil.frontend import _utils

    before = (dict(_registry()), _utils.pymil_broadcast_to, _utils.pymil_broadcast_tensors)
    with installed(Names({})):
        assert "lepton_coreml::quantize" in _registry()
        assert _utils.pymil_broadcast_to is not before[1]
    assert (dict(_registry()), _utils.pymil_broadcast_to, _utils.pymil_broadcast_tensors) == before
