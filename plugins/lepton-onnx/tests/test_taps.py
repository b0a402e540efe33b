"""Looking inside a pivot: values, taps, cuts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lepton_core.errors import ConversionError
from lepton_onnx import _taps

node = helper.make_node


@pytest.fixture
def model():
    w = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["product"], name="product"),
            node("Relu", ["product"], ["relu"], name="relu"),
            node("Shape", ["relu"], ["shape"], name="shape"),
            node("Reshape", ["relu", "shape"], ["same"], name="same"),
            node("Abs", ["w"], ["constant"], name="constant"),
            node("Add", ["same", "relu"], ["y"], name="y"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    return onnx.shape_inference.infer_shapes(made)


X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_values_come_in_order_without_those_of_constants(model):
    found = _taps.values_of(model)
    assert [v.name for v in found] == ["product", "relu", "shape", "same", "y"]
    by_name = {v.name: v for v in found}
    assert by_name["shape"].dtype == "int64"
    assert by_name["same"].inputs == ("relu", "shape")
    assert by_name["product"].inputs == ("x",)
    assert by_name["product"].row_bytes == 12
    assert [v.name for v in found if v.output] == ["y"]


def test_a_tap_changes_nothing_and_shows_the_value(model):
    before = model.SerializeToString()
    tapped = _taps.tap(model, ["relu", "y"])
    assert model.SerializeToString() == before
    y, relu = ReferenceEvaluator(tapped).run(None, {"x": X})
    assert (y == ReferenceEvaluator(model).run(None, {"x": X})[0]).all()
    w = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(relu, np.maximum(X @ w, 0), rtol=1e-6)


def test_a_cut_lets_an_operator_read_what_it_is_fed(model):
    part = _taps.cut(model, ["y"], ["relu", "product", "same", "y"])
    assert [v.name for v in part.graph.input] == ["relu/fed", "same/fed"]
    assert [n.op_type for n in part.graph.node] == ["Add"]
    assert not part.graph.initializer
    onnx.checker.check_model(part, full_check=True)
    fed = {"relu/fed": np.ones((5, 3), np.float32), "same/fed": np.full((5, 3), 2, np.float32)}
    assert (ReferenceEvaluator(part).run(None, fed)[0] == 3).all()


def test_integers_are_computed_from_what_is_fed(model):
    part = _taps.cut(model, ["same", "relu"], ["relu", "product"])
    assert sorted(v.name for v in part.graph.input) == ["product/fed", "relu/fed"]
    assert {n.op_type for n in part.graph.node} == {"Relu", "Shape", "Reshape"}
    one, two = np.full((2, 3), -1, np.float32), np.full((2, 3), 5, np.float32)
    same, relu = ReferenceEvaluator(part).run(None, {"product/fed": one, "relu/fed": two})
    assert (same == 5).all()
    assert (relu == 0).all()


def test_a_value_that_is_not_there_is_refused(model):
    with pytest.raises(ConversionError) as error:
        _taps.tap(model, ["w"])
    assert error.value.code == "LPT-CONV-204"
