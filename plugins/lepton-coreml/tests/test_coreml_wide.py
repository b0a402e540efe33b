"""Numbers of 64 bits: refused where they do not fit, and warned of where they may not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.errors import LeptonError
from lepton_core.types import ConvertRequest
from lepton_coreml import plugin

INT64, DOUBLE = TensorProto.INT64, TensorProto.DOUBLE


@pytest.fixture
def convert(graphs, tmp_path, context):
    def call(nodes, inputs, outputs, weights=()):
        given = [graphs.value(n, s, k) for n, s, k in inputs]
        made = [graphs.value(n, s, k) for n, s, k in outputs]
        proto = graphs.model(
            [graphs.node(kind, i, o, **more) for kind, i, o, more in nodes],
            given, made, [graphs.weight(n, a) for n, a in weights],
        )  # fmt: skip
        pivot = graphs.to_pivot(proto, tmp_path / "pivot")
        return plugin.lepton_convert(pivot, ConvertRequest("coreml"), context)

    return call


def wraps(result):
    return [w for w in result.warnings if "wrap around" in w]


@pytest.mark.parametrize("big", [2**40, -(2**31) - 1, 2**31])
def test_a_constant_beyond_32_bits_is_refused(big, convert, context):
    with pytest.raises(LeptonError) as caught:
        convert(
            [("Add", ["x", "c"], ["y"], {})],
            [("x", ["n", 2], INT64)], [("y", ["n", 2], INT64)], [("c", np.array([big]))],
        )  # fmt: skip
    assert caught.value.code == "LPT-CONV-510"
    assert str(big) in caught.value.cause
    assert list(context.workdir.iterdir()) == []


def test_the_end_of_a_slice_may_be_beyond_every_size(convert, opened):
    result = convert(
        [("Slice", ["x", "start", "end", "axis"], ["y"], {})],
        [("x", ["n", 4], TensorProto.FLOAT)], [("y", ["n", 3], TensorProto.FLOAT)],
        [("start", np.array([1])), ("end", np.array([2**63 - 1])), ("axis", np.array([1]))],
    )  # fmt: skip
    x = np.arange(8, dtype="f4").reshape(2, 4)
    np.testing.assert_array_equal(opened(result.model).run({"x": x})["y"], x[:, 1:])


def test_integer_arithmetic_on_inputs_is_warned_of(convert):
    result = convert(
        [("Mul", ["x", "z"], ["y"], {})],
        [("x", ["n", 2], INT64), ("z", ["n", 2], INT64)], [("y", ["n", 2], INT64)],
    )  # fmt: skip
    assert len(wraps(result)) == 1
    assert "Mul" in wraps(result)[0]


def test_places_counts_and_sizes_are_not_warned_of(convert, converted):
    result = convert(
        [
            ("Shape", ["x"], ["sizes"], {}),
            ("Mul", ["sizes", "one"], ["same"], {}),
            ("Reshape", ["x", "same"], ["y"], {}),
        ],
        [("x", ["n", 2], INT64)], [("y", ["n", 2], INT64)], [("one", np.array([1, 1]))],
    )  # fmt: skip
    assert wraps(result) == []
    assert wraps(converted("tokens")) == []


def test_a_hash_of_an_input_is_warned_of_though_it_is_a_place(convert):
    result = convert(
        [
            ("Mul", ["x", "by"], ["h"], {}),
            ("Mod", ["h", "size"], ["place"], {}),
            ("Gather", ["table", "place"], ["y"], {}),
        ],
        [("x", ["n", 2], INT64)], [("y", ["n", 2], TensorProto.FLOAT)],
        [("by", np.array([2654435])), ("size", np.array([10])), ("table", np.zeros(10, "f4"))],
    )  # fmt: skip
    assert len(wraps(result)) == 1


def test_float64_inside_is_warned_of(convert):
    result = convert(
        [
            ("Cast", ["x"], ["wide"], {"to": DOUBLE}),
            ("Exp", ["wide"], ["e"], {}),
            ("Cast", ["e"], ["y"], {"to": TensorProto.FLOAT}),
        ],
        [("x", ["n", 2], TensorProto.FLOAT)], [("y", ["n", 2], TensorProto.FLOAT)],
    )  # fmt: skip
    assert any("float64 is computed in float32" in w for w in result.warnings)


def test_float64_is_warned_of_and_refused_where_it_overflows(convert, opened):
    result = convert(
        [("Identity", ["x"], ["y"], {})], [("x", ["n", 2], DOUBLE)], [("y", ["n", 2], DOUBLE)]
    )
    assert any("float64 is computed in float32" in w for w in result.warnings)
    session = opened(result.model)
    whole = np.array([[1.0, np.inf]])
    np.testing.assert_array_equal(session.run({"x": whole})["y"], whole)
    with pytest.raises(LeptonError) as caught:
        session.run({"x": np.array([[1.0, 1e300]])})
    assert caught.value.code == "LPT-RUN-507"
