"""Each shim cures the error it names, and is still needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lepton_core import recipe as recipes
from lepton_core.errors import ConversionError
from lepton_core.recipe import Layer, PivotId, Recipe, Tensor
from lepton_coreml._build import build
from lepton_coreml._coremltools import coremltools
from lepton_coreml._frontend import boundary, export
from lepton_coreml._integers import VALUES_NOTE, Reader, read_back
from lepton_coreml._interpreter import Interpreter
from lepton_coreml._lower import lower
from lepton_coreml._mil._package import open_package
from lepton_coreml._prove import run_once
from lepton_coreml._shims import PASSES, SHIMS
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


def subtracted(g):
    """A constant that is taken off before a padding and added behind it."""
    rng = np.random.default_rng(0)
    return g.model(
        [
            g.node("Conv", ["x", "w", "b"], ["c"]),
            g.node("Sub", ["c", "k"], ["d"]),
            g.node("Pad", ["d", "pads"], ["p"]),
            g.node("Add", ["p", "k"], ["y"]),
        ],
        [g.value("x", ["batch", 2, 3, 3])],
        [g.value("y", ["batch", 4, 4, 3])],
        [
            g.weight("w", rng.normal(size=(4, 2, 1, 1)).astype("f4")),
            g.weight("b", rng.normal(size=4).astype("f4")),
            g.weight("k", rng.normal(size=(4, 1, 1)).astype("f4")),
            g.weight("pads", np.array([0, 0, 1, 0, 0, 0, 0, 0])),
        ],
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
    "constants subtracted behind a convolution": subtracted,
}
LOWERED = {"equal constants with a mask": masked}
"""What is written into a pivot first."""


def attempt(proto, folder, without):
    folder.mkdir()
    exported = export(boundary(proto), dynamic=True, max_batch=8, max_size=8)
    out = folder / "raw.mlpackage"
    build(exported, out, device="ios18", half=False, without=without)
    run_once(out)
    if any(node.op_type == "Sub" for node in proto.graph.node):
        compare(proto, out)


def compare(proto, out):
    """Raise an error where a package gives other numbers than the graph."""
    program = open_package(out).program()
    (name,), x = (v.name for v in program.inputs), np.ones((2, 2, 3, 3), "f4")
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    (made,) = Interpreter(program).run({name: x}).values()
    if np.abs(made - wanted).max() > 1e-4:
        raise ConversionError("LPT-CONV-511", "the outputs differ", remedy="Keep the shim.")


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


def test_a_conversion_that_fails_changes_no_name_in_the_next_one(graphs, tmp_path):
    """coremltools starts its numbers of names anew only after a conversion that succeeds."""

    source = graphs.to_pivot(two_products(graphs), tmp_path / "pivot")

    def names(folder):
        attempt(pivot.load(source.path), tmp_path / folder, ())
        program = open_package(tmp_path / folder / "raw.mlpackage").program()
        return [name for name, _ in program.constants()]

    first = names("first")
    assert "matmul_bias_0" in first
    with pytest.raises(ConversionError):
        shim = "equal constants with a mask"
        attempt(masked(pivot.load(source.path)), tmp_path / "failed", (shim,))
    assert names("second") == first


# --- passes ---------------------------------------------------------------------------------------


def activation(scale, zero, **more):
    return Tensor("activation", scale, zero, observed=(-1.0, 1.0), **more)


def by_channel(weights, name, axis=0):
    array = weights[name]
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others) / np.float32(127)
    return Tensor("weight", tuple(map(float, scale)), axis=axis, estimator="absmax")


def residual(g):
    """Two convolutions whose sum has integers, a transpose that does nothing, and a reshape."""
    rng = np.random.default_rng(4)
    return g.model(
        [
            g.node("Conv", ["x", "a.weight"], ["a"], pads=[1, 1, 1, 1]),
            g.node("Relu", ["a"], ["r"]),
            g.node("Transpose", ["r"], ["t"], perm=[0, 1, 2, 3]),
            g.node("Conv", ["t", "b.weight"], ["b"], pads=[1, 1, 1, 1]),
            g.node("Add", ["t", "b"], ["s"]),
            g.node("Flatten", ["s"], ["f"]),
            g.node("MatMul", ["f", "head"], ["y"]),
        ],
        [g.value("x", ["n", 4, 4, 4])],
        [g.value("y", ["n", 5])],
        [
            g.weight("a.weight", rng.normal(size=(8, 4, 3, 3)).astype("f4")),
            g.weight("b.weight", rng.normal(size=(8, 8, 3, 3)).astype("f4")),
            g.weight("head", rng.normal(size=(128, 5)).astype("f4")),
        ],
    )


def recipe_of(pivot_model):
    weights = {t.name: numpy_helper.to_array(t)
               for t in pivot.load(pivot_model.path).graph.initializer}  # fmt: skip
    tensors = {
        "x": activation(0.03, 3),
        "r": activation(0.05, -128),
        "t": activation(0.05, -128, same_as="r"),
        "b": activation(0.06, 5),
        "s": activation(0.08, 2),
        "f": activation(0.08, 2, same_as="s"),
        "y": activation(0.1, 7, optional=True),
        "a.weight": by_channel(weights, "a.weight"),
        "b.weight": by_channel(weights, "b.weight"),
        "head": by_channel(weights, "head", 1),
    }
    layers = {
        "a": Layer("Conv", "r", ("x",), "a.weight", None, ("r",)),
        "t": Layer("Transpose", "t", ("r",)),
        "b": Layer("Conv", "b", ("t",), "b.weight"),
        "s": Layer("Add", "s", ("t", "b")),
        "f": Layer("Flatten", "f", ("s",)),
        "y": Layer("MatMul", "y", ("f",), "head"),
    }
    return Recipe(PivotId(pivot_model.digest, 21), "int8-static", tensors, layers)


def numbers_of(proto, folder, device, without):
    """Return scales and zero points of every pair, and the names of weights with integers."""
    folder.mkdir()
    exported = export(boundary(proto), dynamic=True, max_batch=8, max_size=8)
    out = folder / "raw.mlpackage"
    note = build(exported, out, device=device, half=False, recipe=True, without=without)
    program = open_package(out).program()
    program = replace(program, metadata={VALUES_NOTE: note})
    reader = Reader(program)
    pairs = Counter()
    for op in reader.operations:
        if op.kind in ("quantize", "dequantize"):
            scale, zero = (reader.argument(op, key) for key in ("scale", "zero_point"))
            point = None if zero is None else int(np.ravel(zero)[0])
            pairs[op.kind, float(np.ravel(scale)[0]), point] += 1
    held = {n for n, s in read_back(program).items() if s.integers is not None}
    return pairs, held


@pytest.mark.conformance
@pytest.mark.parametrize("device", ["ios18", "ios17"])
def test_a_pass_that_is_left_out_would_change_the_recipes_numbers(device, graphs, tmp_path):
    """If a pass no longer does, it may run again: take it out of PASSES."""
    source = graphs.to_pivot(residual(graphs), tmp_path / "pivot")
    path = recipes.write(recipe_of(source), tmp_path / "recipe.json")
    lowered, *_ = lower(pivot.load(source.path), str(path), source.digest, device)
    pairs, held = numbers_of(lowered, tmp_path / "out", device, ())
    assert held == {"a.weight", "b.weight", "head"}
    assert {point for _, _, point in pairs} >= {3, -128, 5, 2}
    harmless = []
    for number, one in enumerate(PASSES):
        found = numbers_of(lowered, tmp_path / str(number), device, (one.name,))
        if found == (pairs, held):
            harmless.append(one.name)
    other = "common::merge_affine_dequantize_with_consecutive_ops"
    assert harmless == ([other] if device == "ios18" else []), "of iOS 16's constants alone"
