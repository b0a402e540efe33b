"""Numbers of 64 bits: refused where they do not fit, and warned of where they may not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.errors import LeptonError
from lepton_core.types import ConvertRequest
from lepton_coreml import plugin
from lepton_coreml._doubles import fit_doubles

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


def masked(bad, kind="Where"):
    """Scores with places left out, and what Softmax makes of them, in float64 inside."""
    nodes = [("Cast", ["x"], ["wide"], {"to": DOUBLE})]
    if kind == "Where":
        nodes.append(("Where", ["keep", "wide", "bad"], ["s"], {}))
    else:
        nodes += [("Where", ["keep", "zero", "bad"], ["m"], {}), ("Add", ["wide", "m"], ["s"], {})]
    nodes += [("Softmax", ["s"], ["p"], {"axis": -1}),
              ("Cast", ["p"], ["y"], {"to": TensorProto.FLOAT})]  # fmt: skip
    weights = [("bad", np.array(bad)), ("zero", np.array(0.0))]
    inputs = [("x", ["n", 3], TensorProto.FLOAT), ("keep", ["n", 3], TensorProto.BOOL)]
    return nodes, inputs, [("y", ["n", 3], TensorProto.FLOAT)], weights


def named(warnings, constant):
    return [w for w in warnings if repr(constant) in w]


@pytest.mark.parametrize("kind", [pytest.param("Where", marks=pytest.mark.conformance), "Add"])
def test_a_mask_beyond_float32_is_cut_where_softmax_reads_it(kind, convert, opened):
    """A row that is left out whole is even, and not NaN, as it would be with infinity."""
    result = convert(*masked(-1e300, kind))
    (said,) = named(result.warnings, "bad")
    assert "-1e+300" in said and "was cut to 3.403e+38" in said and "Softmax ('p')" in said
    keep = np.array([[True, False, True], [False, False, False]])
    x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "f4")
    made = opened(result.model).run({"x": x, "keep": keep})["y"]
    e = np.exp([1.0, 3.0])
    np.testing.assert_allclose(made[0], [e[0] / e.sum(), 0, e[1] / e.sum()], rtol=1e-5)
    np.testing.assert_allclose(made[1], [1 / 3] * 3, rtol=1e-6)


def fitted(graphs, nodes, inputs, outputs, weights, **more):
    proto = graphs.model(
        [graphs.node(kind, i, o, **a) for kind, i, o, a in nodes],
        [graphs.value(n, s, k) for n, s, k in inputs],
        [graphs.value(n, s, k) for n, s, k in outputs],
        [graphs.weight(n, a) for n, a in weights],
    )
    before = proto.SerializeToString()
    fit, warnings = fit_doubles(proto, **more)
    assert proto.SerializeToString() == before
    return fit, warnings


X64 = [("x", ["n", 2], DOUBLE)]
Y64, YES = [("y", ["n", 2], DOUBLE)], [("y", ["n", 2], TensorProto.BOOL)]
HARMLESS = {
    "an upper bound": ([("Clip", ["x", "", "big"], ["y"], {})], Y64, 1e300),
    "a lower bound": ([("Clip", ["x", "big", ""], ["y"], {})], Y64, -1e300),
    "the smaller of two": ([("Min", ["x", "big"], ["y"], {})], Y64, 1e39),
    "a comparison": ([("Less", ["x", "big"], ["y"], {})], YES, 1e300),
    "behind a reshape": (
        [("Unsqueeze", ["big", "first"], ["one"], {}), ("Less", ["x", "one"], ["y"], {})],
        YES, 1e99,
    ),
    "a float32 in the model": (
        [("Cast", ["big"], ["b"], {"to": TensorProto.FLOAT}),
         ("Cast", ["x"], ["s"], {"to": TensorProto.FLOAT}), ("Add", ["s", "b"], ["z"], {}),
         ("Cast", ["z"], ["y"], {"to": DOUBLE})], Y64, 1e300,
    ),
    "nothing that reaches an output": (
        [("Add", ["x", "big"], ["gone"], {}), ("Identity", ["x"], ["y"], {})], Y64, 1e300,
    ),
}  # fmt: skip
HARMFUL = {
    "a sum": ([("Add", ["x", "big"], ["y"], {})], Y64, 1e300, "an output"),
    "a product": ([("Mul", ["x", "big"], ["y"], {})], Y64, 1e300, "Mul ('y')"),
    "an output": ([("Expand", ["big", "two"], ["y"], {})], Y64, 1e300, "an output"),
    "a bound that binds": ([("Max", ["x", "big"], ["y"], {})], Y64, 1e300, "Max ('y')"),
    "two sums": (
        [("Add", ["x", "big"], ["a"], {}), ("Add", ["a", "a"], ["b"], {}),
         ("Softmax", ["b"], ["y"], {})], Y64, -1e300, "Add ('b')",
    ),
    "two such constants": ([("Less", ["other", "big"], ["y"], {})], YES, 1e300, "Less ('y')"),
    "what needs both": (
        [("Greater", ["x", "nought"], ["k"], {}), ("Less", ["x", "big"], ["c"], {}),
         ("Where", ["k", "x", "big"], ["w"], {}), ("Softmax", ["w"], ["p"], {}),
         ("Where", ["c", "p", "x"], ["y"], {})], Y64, -1e300, "Softmax ('p')",
    ),
}  # fmt: skip
MORE = [("first", np.array([0])), ("two", np.array([1, 2])), ("other", np.array(1e301)),
        ("nought", np.array(0.0))]  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_a_float64_beyond_float32_may_stand_where_it_makes_no_difference(name, graphs):
    nodes, outputs, big = HARMLESS[name]
    _, warnings = fitted(graphs, nodes, X64, outputs, [("big", np.array(big)), *MORE])
    said = named(warnings, "big")
    assert len(said) == (name != "nothing that reaches an output")
    assert all("becomes infinite" in text and f"{big:g}" in text for text in said)


@pytest.mark.parametrize("name", HARMFUL)
def test_a_float64_beyond_float32_is_refused_where_it_reaches_an_output(name, graphs):
    nodes, outputs, big, where = HARMFUL[name]
    with pytest.raises(LeptonError) as caught:
        fitted(graphs, nodes, X64, outputs, [("big", np.array(big)), *MORE])
    error = caught.value
    assert error.code == "LPT-CONV-512"
    assert "'big'" in error.message and where in error.message
    assert f"{big:g}" in error.cause


def test_a_conversion_that_would_be_infinite_leaves_nothing_behind(convert, context):
    with pytest.raises(LeptonError) as caught:
        convert([("Mul", ["x", "big"], ["y"], {})], X64, Y64, [("big", np.array(1e300))])
    assert caught.value.code == "LPT-CONV-512"
    assert list(context.workdir.iterdir()) == []


def test_a_float16_program_has_no_finite_mask(graphs):
    with pytest.raises(LeptonError) as caught:
        fitted(graphs, *masked(-1e300), half=True)
    assert "Softmax ('p')" in caught.value.message


def test_a_float64_that_becomes_zero_is_named(graphs):
    tiny = [("tiny", np.array(1e-300))]
    fit, warnings = fitted(graphs, [("Add", ["x", "tiny"], ["y"], {})], X64, Y64, tiny)
    assert warnings == [
        "The float64 constant 'tiny' (1e-300) becomes 0 in float32; it is read by Add ('y')."
    ]
    assert len(fit.graph.node) == 1
