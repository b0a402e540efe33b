"""Pruned weights and palettes in ONNX files: against NumPy's tables, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lepton_core.errors import OptimizeError
from lepton_core.recipe import Layer, PalettizedWeight, PivotId, PrunedWeight, Recipe, Tensor
from lepton_onnx import qdq, sparse

ID = PivotId("sha256:1", 21)


def model_of(weight, op="Identity"):
    """A graph that yields its weight, or multiplies by it."""
    shape = list(weight.shape)
    if op == "Identity":
        node = helper.make_node(op, ["w"], ["y"])
        inputs, out = [], shape
    else:
        node = helper.make_node(op, ["x", "w"], ["y"])
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", shape[0]])]
        out = ["b", shape[1]]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def add_weight(model, name, weight):
    """Let a graph yield one more weight."""
    model.graph.initializer.append(numpy_helper.from_array(weight, name))
    model.graph.node.append(helper.make_node("Identity", [name], [f"y/{name}"]))
    shape = list(weight.shape)
    out = helper.make_tensor_value_info(f"y/{name}", TensorProto.FLOAT, shape)
    model.graph.output.append(out)


def lower(model, recipe, arrays, **more):
    more = {"sparse_dtypes": ("float32", "int8"), "codes": True} | more
    return qdq.lower(model, recipe, digest="sha256:1", arrays=arrays, **more).model


@st.composite
def palettes(draw):
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank - 1))
    shape += (-(-1100 // max(int(np.prod(shape)), 1)),)  # large enough to be stored as codes
    shape = draw(st.permutations(shape))
    bits = draw(st.integers(1, 8))
    axis = draw(st.none() | st.integers(0, rank - 1))
    group = None if axis is None else draw(st.integers(1, shape[axis] + 1))
    seed = draw(st.integers(0, 2**16))
    return tuple(shape), bits, axis, group, seed


@settings(max_examples=60, deadline=None)
@given(palettes())
def test_a_palette_yields_exactly_its_values_and_is_read_back(drawn):
    shape, bits, axis, group, seed = drawn
    random = np.random.default_rng(seed)
    entry = PalettizedWeight(bits, "w/i", "w/p", axis, group)
    count = 1 if axis is None else -(-shape[axis] // group)
    tables = random.standard_normal((count, 2**bits)).astype(np.float32)
    indices = random.integers(0, 2**bits, shape).astype(np.uint8)
    where = np.zeros(shape, int)
    if axis is not None:
        own = [-1 if a == axis else 1 for a in range(len(shape))]
        where += (np.arange(shape[axis]) // group).reshape(own)
    wanted = tables[where, indices]
    recipe = Recipe(ID, "palette", {}, {}, palettes={"w": entry})
    found = lower(model_of(np.zeros(shape, np.float32)), recipe, {"w/i": indices, "w/p": tables})
    assert "w" not in {t.name for t in found.graph.initializer}
    assert np.array_equal(ReferenceEvaluator(found).run(None, {})[0], wanted)
    whole = lower(model_of(np.zeros(shape, np.float32)), recipe, {"w/i": indices, "w/p": tables},
                  codes=False)  # fmt: skip
    assert np.array_equal(numpy_helper.to_array(whole.graph.initializer[0]), wanted)
    back, stored = sparse.read_palettes(found)["w"]
    assert np.array_equal(back, indices)
    assert np.array_equal(stored[:, : 2**bits], tables)
    width = next(w for w in (1, 2, 4, 8) if w >= bits)
    codes = next(t for t in found.graph.initializer if t.name == "w/codes")
    rows = 1 if axis is None else shape[axis]
    assert len(codes.raw_data) == rows * -(-int(np.prod(shape)) // rows * width // 8)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(30, 200), st.floats(0.3, 1.0), st.sampled_from(["f4", "i1"]),
    st.integers(0, 2**16),
)  # fmt: skip
def test_zeros_cost_a_bit(rows, columns, sparsity, kind, seed):
    random = np.random.default_rng(seed)
    weight = random.integers(1, 100, (rows, columns)).astype(np.float32)
    mask = random.random((rows, columns)) >= sparsity
    entry = PrunedWeight("magnitude", round(1 - mask.mean(), 6), "w/mask")
    layers, tensors, more = {}, {}, {}
    if kind == "i1":
        layers = {"y": Layer("MatMul", "y", (), "w", mode="weight")}
        tensors = {"w": Tensor("weight", 1.0)}
    recipe = Recipe(ID, "sparse", tensors, layers, pruned={"w": entry})
    model = model_of(weight, "MatMul" if kind == "i1" else "Identity")
    arrays = {"w/mask": sparse.pack_mask(mask)}
    found = lower(model, recipe, arrays, **more)
    wanted = np.where(mask, weight, 0)
    eye = {"x": np.eye(rows, dtype=np.float32)} if kind == "i1" else {}
    assert np.array_equal(ReferenceEvaluator(found).run(None, eye)[0], wanted)
    dense = lower(model, recipe, arrays, sparse_dtypes=())
    assert np.array_equal(ReferenceEvaluator(dense).run(None, eye)[0], wanted)
    name = "w/int8" if kind == "i1" else "w"
    size = np.dtype(kind).itemsize
    if name in sparse.read_sparse(found):
        assert np.array_equal(sparse.read_sparse(found)[name], wanted)
        bytes_of = {t.name: len(t.raw_data) for t in found.graph.initializer}
        assert bytes_of[f"{name}/mask"] == -(-mask.size // 8)
        assert bytes_of[f"{name}/values"] == (mask.sum() + 1) * size
    else:  # it would be no smaller
        smaller = size * (mask.sum() + 1) + -(-mask.size // 8) + 1024
        assert mask.size < 1024 or smaller >= size * mask.size


def test_what_is_small_stays_as_it_is():
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    mask = weight >= 56
    arrays = {"m": sparse.pack_mask(mask), "i": (weight.astype(np.uint8) % 4),
              "p": np.float32([[0, 1, 2, 3]])}  # fmt: skip
    pruned = Recipe(ID, "sparse", {}, {}, pruned={"w": PrunedWeight("magnitude", 0.875, "m")})
    found = lower(model_of(weight), pruned, arrays)
    assert np.array_equal(numpy_helper.to_array(found.graph.initializer[0]), weight * mask)
    shared = Recipe(ID, "palette", {}, {}, palettes={"w": PalettizedWeight(2, "i", "p")})
    found = lower(model_of(weight), shared, arrays)
    assert np.array_equal(numpy_helper.to_array(found.graph.initializer[0]), weight % 4)


def test_one_weight_can_be_pruned_and_another_have_a_palette():
    random = np.random.default_rng(0)
    weight = random.standard_normal((40, 64)).astype(np.float32)
    mask = random.random(weight.shape) < 0.25
    indices = random.integers(0, 4, weight.shape).astype(np.uint8)
    table = np.float32([[-2, -1, 1, 2]])
    recipe = Recipe(
        ID, "palette", {}, {}, palettes={"v": PalettizedWeight(2, "i", "p", None, None)},
        pruned={"w": PrunedWeight("magnitude", round(1 - mask.mean(), 6), "m")},
    )  # fmt: skip
    model = model_of(weight)
    add_weight(model, "v", weight)
    found = lower(model, recipe, {"m": sparse.pack_mask(mask), "i": indices, "p": table})
    assert sparse.read_sparse(found).keys() == {"w"}
    assert sparse.read_palettes(found).keys() == {"v"}
    wanted = np.where(mask, weight, 0), table[0][indices]
    for got, expected in zip(ReferenceEvaluator(found).run(None, {}), wanted, strict=True):
        assert np.array_equal(got, expected)


def test_what_was_written_is_counted():
    weight = np.ones((40, 64), np.float32)
    arrays = {"m": np.zeros(320, np.uint8), "i": np.zeros((40, 64), np.uint8),
              "p": np.float32([[0, 1]])}  # fmt: skip
    recipe = Recipe(
        ID, "palette", {}, {}, palettes={"w": PalettizedWeight(1, "i", "p")},
        pruned={"w": PrunedWeight("magnitude", 1.0, "m")},
    )  # fmt: skip
    copy = model_of(weight)
    assert sparse.prune(copy, recipe, arrays) == 1
    assert sparse.write_small(copy, recipe, arrays) == 1
    other = model_of(weight)
    other.graph.initializer[0].name = "other"
    assert sparse.prune(other, recipe, arrays) == sparse.write_small(other, recipe, arrays) == 0


def test_graphs_whose_transposes_reverse_all_axes_are_read():
    model = model_of(np.ones((4, 5), np.float32))
    model.graph.node[0].CopyFrom(helper.make_node("Transpose", ["w"], ["y"]))
    assert sparse.read_palettes(model) == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"w/mask": np.zeros(3, np.uint8)}, "shape"),
        ({"w/mask": np.full(2, 255, np.uint8)}, "beyond the last"),
        ({"w/mask": np.uint8([0b00000111, 0])}, "the pattern is 2:4"),
        ({"w/mask": np.uint8([0x33, 0x01])}, "0.583333 of 'w/mask' is zeros"),
        ({"u/i": np.ones((3, 4), np.uint8)}, "6 values that are pruned"),
        ({"v/i": np.zeros((4, 3), np.uint8)}, "shape"),
        ({"v/i": np.full((3, 4), 4, np.uint8)}, "beyond a table"),
        ({"v/p": np.zeros((1, 5), np.float32)}, "shape"),
        ({"v/p": np.full((1, 4), np.nan, np.float32)}, "not finite"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(change, why):
    arrays = {"w/mask": np.uint8([0x33, 0x03]), "v/i": np.zeros((3, 4), np.uint8),
              "v/p": np.zeros((1, 4), np.float32), "u/p": np.float32([[0, 1, 2, 3]]),
              "u/i": np.zeros((3, 4), np.uint8)} | change  # fmt: skip
    model = model_of(np.ones((3, 4), np.float32))
    for name in "vu":
        add_weight(model, name, np.ones((3, 4), np.float32))
    entry = PrunedWeight("magnitude", 0.5, "w/mask", "layer", (2, 4), 1)
    recipe = Recipe(
        ID, "palette", {}, {}, pruned={"w": entry, "u": entry},
        palettes={"v": PalettizedWeight(2, "v/i", "v/p"), "u": PalettizedWeight(2, "u/i", "u/p")},
    )  # fmt: skip
    with pytest.raises(OptimizeError, match="do not fit") as failed:
        lower(model, recipe, arrays)
    assert failed.value.code == "LPT-OPT-006"
    assert why in str(failed.value.cause)
