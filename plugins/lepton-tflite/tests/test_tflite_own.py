"""Graphs in other floats than float32, and operators that litert-torch gets another form of."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.errors import ConversionError, SessionError
from lepton_core.types import CheckRequest, ConvertRequest, InspectRequest, Model
from lepton_onnx import plugin as onnx_plugin
from lepton_tflite import plugin
from lepton_tflite._border import into_file
from lepton_tflite._single import to_single

pytestmark = pytest.mark.xdist_group("tflite")

RNG = np.random.default_rng(0)


def network(g, kind, dtype):
    """A layer in another float type, with a Cast inside and one to it."""
    return g.model(
        [
            g.node("MatMul", ["x", "w"], ["h"]),
            g.node("Cast", ["h"], ["s"], to=TensorProto.FLOAT),
            g.node("Tanh", ["s"], ["t"]),
            g.node("Cast", ["t"], ["y"], to=kind),
        ],
        [g.value("x", [2, 4], kind)],
        [g.value("y", [2, 3], kind), g.value("s", [2, 3])],
        [g.weight("w", RNG.normal(size=(4, 3)).astype(dtype))],
    )


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "f2"),
        pytest.param(TensorProto.DOUBLE, "f8", marks=pytest.mark.conformance),
    ],
)
def test_other_floats_are_computed_in_float32(kind, dtype, graphs, to_pivot, context, opened):
    pivot = to_pivot(network(graphs, kind, dtype))
    result = plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert any("the file in float32" in warning for warning in result.warnings)
    assert result.model.signature == pivot.signature
    x = RNG.normal(size=(2, 4)).astype(dtype)
    found = opened(result.model).run({"x": x})
    assert (found["y"].dtype, found["s"].dtype) == (np.dtype(dtype), np.dtype("f4"))
    w = to_single(network_of(pivot))[0].graph.initializer[0]
    wanted = x.astype("f4") @ np.frombuffer(w.raw_data, "f4").reshape(4, 3)
    np.testing.assert_allclose(found["s"], wanted, rtol=1e-4)
    np.testing.assert_allclose(found["y"], np.tanh(wanted).astype(dtype), rtol=2e-3)


def network_of(pivot):
    from lepton_onnx.pivot import load

    return load(pivot.path)


def test_they_fit(graphs, tmp_path, context):
    path = tmp_path / "half.onnx"
    path.write_bytes(network(graphs, TensorProto.FLOAT16, "f2").SerializeToString())
    found = onnx_plugin.lepton_inspect(Model("onnx", str(path)), InspectRequest(), context)
    judged = plugin.lepton_check(found.model, CheckRequest("tflite", found), context)
    assert judged.verdict == "fits", judged.reasons


def test_a_number_beyond_float32_is_refused(graphs):
    proto = graphs.model(
        [graphs.node("Add", ["x", "mask"], ["y"])],
        [graphs.value("x", [2], TensorProto.DOUBLE)],
        [graphs.value("y", [2], TensorProto.DOUBLE)],
        [graphs.weight("mask", np.array([-1e300, 0.0]))],
    )
    with pytest.raises(ConversionError) as caught:
        to_single(proto)
    assert caught.value.code == "LPT-CONV-417"
    assert "'mask'" in caught.value.message
    fine = graphs.model([], [graphs.value("x", [2])], [graphs.value("x", [2])])
    assert to_single(fine) == (fine, ())


def test_a_float64_beyond_float32_is_not_passed():
    details = {"dtype": np.float32}
    given = into_file("x", np.array([1.5, np.inf, np.nan]), details)
    assert given.dtype == np.float32
    assert np.array_equal(given, [1.5, np.inf, np.nan], equal_nan=True)
    with pytest.raises(SessionError) as caught:
        into_file("x", np.array([1.0, -1e300]), details)
    assert caught.value.code == "LPT-RUN-405"
    assert "-1e+300" in caught.value.message


def test_mish_keeps_the_digits_of_small_results():
    torch = pytest.importorskip("torch")
    from lepton_tflite._own import overrides

    x = np.concatenate([np.linspace(-40, 90, 500), [-1e30, 1e30]]).astype("f4")
    found = overrides()["Mish"].compute(None, torch.from_numpy(x)).numpy()
    wide = np.minimum(x.astype("f8"), 60)  # beyond, the factor is 1
    wanted = x * np.tanh(np.log1p(np.exp(wide)))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.conformance
def test_exclusive_or(graphs, to_pivot, context, opened):
    """The converter fails when it writes logical_xor."""
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Xor", ["a", "b"], ["y"])],
            [graphs.value(n, [4], TensorProto.BOOL) for n in "ab"],
            [graphs.value("y", [4], TensorProto.BOOL)],
        )
    )
    made = plugin.lepton_convert(pivot, ConvertRequest("tflite"), context).model
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    assert np.array_equal(opened(made).run({"a": a, "b": b})["y"], a ^ b)


@pytest.mark.parametrize(
    ("shape", "weights", "attributes"),
    [
        ((1, 4, 5, 7), (4, 6, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (  # the usual one of decoders, which doubles the image
            (2, 4, 5, 7), (4, 3, 3, 3),
            {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1], "group": 2},
        ),
        ((1, 4, 5, 5), (4, 3, 4, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ],
    ids=["padded", "doubled", "same"],
)  # fmt: skip
def test_transposed_convolutions_by_a_stride(
    shape, weights, attributes, graphs, to_pivot, convert, opened
):
    torch = pytest.importorskip("torch")
    w, x = (RNG.normal(size=s).astype("f4") for s in (weights, shape))
    b = RNG.normal(size=weights[1] * attributes.get("group", 1)).astype("f4")
    node = graphs.node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    pivot = to_pivot(
        graphs.model(
            [node], [graphs.value("x", shape)], [graphs.value("y", [None] * 4)],
            [graphs.weight("w", w), graphs.weight("b", b)],
        )
    )  # fmt: skip
    found = opened(convert(pivot).model).run({"x": x})["y"]
    extra, groups = attributes.get("output_padding", [0, 0]), attributes.get("group", 1)
    wanted = torch.conv_transpose2d(*map(torch.from_numpy, (x, w, b)), 2, 1, extra, groups)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
