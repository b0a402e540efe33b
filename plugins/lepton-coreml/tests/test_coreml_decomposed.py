"""Operators of torch that coremltools does not translate are written in others that it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from lepton_core.context import Context
from lepton_core.errors import ConversionError
from lepton_core.types import ConvertRequest
from lepton_coreml import _decompose, plugin
from lepton_coreml._build import build
from lepton_coreml._frontend import boundary, export
from lepton_onnx import pivot

RNG = np.random.default_rng(0)
X = RNG.uniform(1.1, 4, (2, 3)).astype("f4")


def one(g, kind, **attributes):
    """Return a graph of one operator from float to float."""
    node = g.node(kind, ["x"], ["y"], **attributes)
    return g.model([node], [g.value("x", [2, 3])], [g.value("y", [2, 3])])


def grid(g):
    """The sizes of AffineGrid are known."""
    weights = [g.weight("size", np.array([1, 1, 2, 3]))]
    node = g.node("AffineGrid", ["x", "size"], ["y"], align_corners=1)
    return g.model([node], [g.value("x", [1, 2, 3])], [g.value("y", [1, 2, 3, 2])], weights)


def largest(g):
    """Values and places, of equal values the first one first."""
    weights = [g.weight("k", np.array([2]))]
    node = g.node("TopK", ["x", "k"], ["y", "i"], largest=0)
    outputs = [g.value("y", [2, 2]), g.value("i", [2, 2], TensorProto.INT64)]
    return g.model([node], [g.value("x", [2, 3])], outputs, weights)


def same(g):
    """An output that is an input."""
    node = g.node("Identity", ["x"], ["y"])
    return g.model([node], [g.value("x", [2, 3])], [g.value("y", [2, 3])])


def product(g):
    node = g.node("ReduceProd", ["x", "axis"], ["y"], keepdims=0)
    weights = [g.weight("axis", np.array([1]))]
    return g.model([node], [g.value("x", [2, 3])], [g.value("y", [2])], weights)


def rows(g):
    """A product of two rows, which gives one number."""
    weights = [g.weight("w", X.reshape(-1))]
    node = g.node("MatMul", ["x", "w"], ["y"])
    return g.model([node], [g.value("x", [6])], [g.value("y", [])], weights)


def turned(g):
    """Rotary embeddings take parts of a tensor, which torch calls aliases."""
    proto = g.model(
        [g.node("RotaryEmbedding", ["x", "c", "s"], ["y"])],
        [g.value("x", [1, 2, 3, 4])],
        [g.value("y", [1, 2, 3, 4])],
        [g.weight(n, RNG.normal(size=(1, 3, 2)).astype("f4")) for n in "cs"],
    )
    proto.opset_import[0].version = 23
    return proto


def diagonal(g):
    """An einsum that takes a diagonal."""
    node = g.node("Einsum", ["x"], ["y"], equation="bii->bi")
    return g.model([node], [g.value("x", [2, 3, 3])], [g.value("y", [2, 3])])


def flags(g):
    """Booleans: exclusive or, and the largest of a row."""
    return g.model(
        [
            g.node("Greater", ["x", "two"], ["a"]),
            g.node("Less", ["x", "three"], ["b"]),
            g.node("Xor", ["a", "b"], ["y"]),
            g.node("ReduceMax", ["y", "axis"], ["z"], keepdims=0),
        ],
        [g.value("x", [2, 3])],
        [g.value("y", [2, 3], TensorProto.BOOL), g.value("z", [2], TensorProto.BOOL)],
        [
            g.weight("two", np.float32(2)), g.weight("three", np.float32(3)),
            g.weight("axis", np.array([1])),
        ],
    )  # fmt: skip


def states(g):
    """The last states of an LSTM."""
    return g.model(
        [g.node("LSTM", ["x", "W", "R"], ["y", "h", "c"], hidden_size=3)],
        [g.value("x", [4, 2, 5])],
        [g.value("y", [4, 1, 2, 3]), g.value("h", [1, 2, 3]), g.value("c", [1, 2, 3])],
        [
            g.weight("W", RNG.normal(size=(1, 12, 5)).astype("f4")),
            g.weight("R", RNG.normal(size=(1, 12, 3)).astype("f4")),
        ],
    )


def pixels(g):
    """Pixels that are taken apart and put together, by each way, which take six dimensions."""
    x, shape = [2, 4, 4, 6], {"apart": [2, 4, 2, 2, 3, 2], "together": [2, 16, 2, 3]}
    return g.model(
        [
            g.node("Reshape", ["x", "apart"], ["a"]),
            g.node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 5, 2, 4]),
            g.node("Reshape", ["b", "together"], ["c"]),
            g.node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD"),
            g.node("SpaceToDepth", ["d"], ["e"], blocksize=2),
            g.node("DepthToSpace", ["e"], ["y"], blocksize=2),
        ],
        [g.value("x", x)],
        [g.value("y", x)],
        [g.weight(name, np.array(sizes)) for name, sizes in shape.items()],
    )


def groups(g):
    """Channels normalised by groups, at an open batch."""
    shape = ["batch", 6, 3]
    return g.model(
        [g.node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2)],
        [g.value("x", shape)],
        [g.value("y", shape)],
        [g.weight(n, RNG.normal(size=6).astype("f4")) for n in "wb"],
    )


def scattered(g):
    """Single values that are reduced with those that stand there."""
    kinds = ("add", "mul", "max", "min")
    return g.model(
        [g.node("ScatterElements", ["x", "i", "u"], [k], axis=1, reduction=k) for k in kinds],
        [g.value("x", [2, 3])],
        [g.value(k, [2, 3]) for k in kinds],
        [
            g.weight("i", np.array([[0, 2], [1, -1]])),
            g.weight("u", np.array([[2, 3], [-4, 5]], "f4")),
        ],
    )


FORMS = {
    "scattered": scattered,
    "gelu": lambda g: one(g, "Gelu", approximate="tanh"),
    "reciprocal": lambda g: one(g, "Reciprocal"),
    "states": states,
    "pixels": pixels,
    "topk": largest, "same": same, "product": product, "rows": rows, "rotary": turned,
    "einsum": diagonal, "flags": flags,
}  # fmt: skip
"""What is written otherwise for other reasons."""
GRAPHS = {
    "acosh": lambda g: one(g, "Acosh"),
    "asinh": lambda g: one(g, "Asinh"),
    "celu": lambda g: one(g, "Celu", alpha=2.0),
    "affine_grid_generator": grid,
    "group_norm": groups,
}


def run(proto, folder, graphs, opened, feed):
    source = graphs.to_pivot(proto, folder / "pivot")
    made = plugin.lepton_convert(source, ConvertRequest("coreml"), Context(folder)).model
    return source, opened(made, device="reference").run(feed)


SHORT = ("states", "topk", "same", "pixels", "group_norm", "scattered", "gelu", "reciprocal")
LONG = pytest.mark.conformance


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in SHORT else LONG) for n in (*GRAPHS, *FORMS)],
)
def test_they_are_converted(name, graphs, tmp_path, opened, reference):
    proto = (GRAPHS | FORMS)[name](graphs)
    shape = [d.dim_value or 2 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    each = np.linspace(1, 2, int(np.prod(shape)), dtype="f4").reshape(shape)
    feed = {"x": np.resize(X, shape) * each}
    source, found = run(proto, tmp_path, graphs, opened, feed)
    for key, array in reference(source, feed).items():
        assert found[key].dtype == array.dtype
        np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=1e-6)


SIZES = np.array([0, 1e-30, -1e-4, 0.3, 1e9, 1e20, -3e38, -np.inf, np.nan], "f4")


@pytest.mark.parametrize(
    ("ours", "numpys", "values"),
    [
        (_decompose._asinh, np.arcsinh, SIZES),
        (_decompose._acosh, np.arccosh, 1 + np.abs(SIZES)),
        (_decompose._acosh, np.arccosh, np.array([1, 1.0000001, 1.0001], "f4")),
    ],
)
def test_no_digit_is_lost_near_zero_and_none_overflows(ours, numpys, values):
    found = ours(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, numpys(values.astype("f8")), rtol=3e-7)


@LONG
def test_the_package_keeps_the_digits(graphs, tmp_path, opened):
    """Nothing on the way simplifies (1 + x) - 1."""
    proto = one(graphs, "Asinh")
    x = np.array([[0, 1e-30, -1e-4], [0.3, 1e9, 1e20]], "f4")
    _, found = run(proto, tmp_path, graphs, opened, {"x": x})
    np.testing.assert_allclose(found["y"], np.arcsinh(x.astype("f8")), rtol=1e-6)


@LONG
@pytest.mark.parametrize("name", GRAPHS)
def test_coremltools_still_has_no_translation(name, graphs, tmp_path, monkeypatch):
    """If this fails, the decomposition may go: take it out of OWN or BROKEN."""
    proto = pivot.load(graphs.to_pivot(GRAPHS[name](graphs), tmp_path / "pivot").path)
    monkeypatch.setattr(_decompose, "_ROUNDS", 0)
    exported = export(boundary(proto), dynamic=True, max_batch=8, max_size=8)
    with pytest.raises(ConversionError) as caught:
        build(exported, tmp_path / "raw.mlpackage", device="ios18", half=False)
    assert caught.value.code in ("LPT-CONV-504", "LPT-CONV-505")


def test_a_query_that_sees_no_key_gives_zeros(graphs, tmp_path, opened):
    """Core ML's attention would give it a mean of all values."""
    shape = [1, 1, 2, 4]
    proto = graphs.model(
        [graphs.node("Attention", ["q", "k", "v", "m"], ["y"])],
        [graphs.value(n, shape) for n in "qkv"] + [graphs.value("m", [2, 2], TensorProto.BOOL)],
        [graphs.value("y", shape)],
    )
    proto.opset_import[0].version = 23
    feed = {n: RNG.normal(size=shape).astype("f4") for n in "qkv"}
    feed["m"] = np.array([[False, False], [True, False]])
    _, found = run(proto, tmp_path, graphs, opened, feed)
    assert not found["y"][0, 0, 0].any()
    np.testing.assert_allclose(found["y"][0, 0, 1], feed["v"][0, 0, 0], rtol=1e-5)


def test_paddings_that_cut(graphs, tmp_path, opened):
    """MIL's pads are not negative; ONNX's reference evaluator takes none either."""
    proto = graphs.model(
        [
            graphs.node("Pad", ["x", "pads", "three"], ["y"]),
            graphs.node("Pad", ["x", "less"], ["z"]),
            graphs.node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            graphs.node("Pad", ["i", "pads"], ["w"]),
        ],
        [graphs.value("x", ["batch", 4, 5])],
        [
            graphs.value("y", ["batch", 3, 5]), graphs.value("z", ["batch", 1, 5]),
            graphs.value("w", ["batch", 3, 5], TensorProto.INT32),
        ],
        [
            graphs.weight("pads", np.array([0, 1, -1, 0, -2, 1])),
            graphs.weight("less", np.array([0, -1, 0, 0, -2, 0])),
            graphs.weight("three", np.float32(3)),
        ],
    )  # fmt: skip
    x = RNG.normal(size=(2, 4, 5)).astype("f4") * 9
    _, found = run(proto, tmp_path, graphs, opened, {"x": x})
    around = ((0, 0), (1, 0), (0, 1))
    np.testing.assert_array_equal(found["y"], np.pad(x[:, :2, 1:], around, constant_values=3))
    np.testing.assert_array_equal(found["z"], x[:, 1:2])
    np.testing.assert_array_equal(found["w"], np.pad(x[:, :2, 1:].astype("i4"), around))


@pytest.mark.parametrize(
    ("sizes", "pads"), [((5, 4), [0] * 4), ((5, 4), [1] * 4), ((3, 4, 2), [1] * 6)]
)
def test_outputs_of_transposed_convolutions_that_are_padded(sizes, pads, graphs, tmp_path, opened):
    """coremltools fails where nothing is cut off as well, and in three dimensions."""
    torch = pytest.importorskip("torch")
    rank = len(sizes)
    w, b = RNG.normal(size=(4, 6, *[3] * rank)).astype("f4"), RNG.normal(size=6).astype("f4")
    proto = graphs.model(
        [graphs.node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2] * rank, pads=pads,
                     output_padding=[1] * rank)],
        [graphs.value("x", ["batch", 4, *sizes])],
        [graphs.value("y", ["batch", 6, *[None] * rank])],
        [graphs.weight("w", w), graphs.weight("b", b)],
    )  # fmt: skip
    x = RNG.normal(size=(2, 4, *sizes)).astype("f4")
    _, found = run(proto, tmp_path, graphs, opened, {"x": x})
    convolve = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    wanted = convolve(*map(torch.from_numpy, (x, w, b)), 2, pads[0], 1).numpy()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-4, atol=1e-5)
