"""What is known before anything is converted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError
from lepton_core.types import (
    CheckRequest,
    ConvertRequest,
    InspectRequest,
    InspectResult,
    Model,
    OperatorUse,
    Signature,
    TensorSpec,
)
from lepton_onnx import plugin as onnx_plugin
from lepton_tflite import plugin

IMAGE = TensorSpec("image", "float32", ("batch", 3, 8, 8))


def judge(*operators, domain="onnx", spec=IMAGE, **more):
    model = Model("onnx", "net.onnx", signature=Signature((spec,), (spec,)))
    found = InspectResult(model, operators=operators, domain=domain, **more)
    return plugin.lepton_check(model, CheckRequest("tflite", found), None)


def test_what_fits():
    found = judge(OperatorUse("ai.onnx::Conv", 2), OperatorUse("ai.onnx::Relu", 1))
    assert found.verdict == "fits"
    assert found.precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        ("ai.onnx::Col2Im", "iota"),
        ("ai.onnx::NonZero", "depends on values"),
        ("ai.onnx::Loop", "no translation"),
        ("com.microsoft::Gelu", "com.microsoft"),
    ],
)
def test_operators_without_a_kernel_are_named_with_their_place(operator, says):
    found = judge(OperatorUse(operator, 2, where="net.py:7"))
    assert found.verdict == "impossible"
    assert operator in found.reasons[0]
    assert "net.py:7" in found.reasons[0]
    assert says in found.reasons[0]


def qdq(kind):
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], name="first"),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("DequantizeLinear", ["w", "s", "z"], ["e"]),
            node("MatMul", ["d", "e"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.float32(0.1), "s"),
            numpy_helper.from_array(np.array(3, kind), "z"),
            numpy_helper.from_array(np.arange(8, dtype=kind).reshape(4, 2), "w"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def inspected(proto, context, tmp_path):
    file = tmp_path / "net.onnx"
    onnx.save(proto, file)
    found = onnx_plugin.lepton_inspect(Model("onnx", str(file)), InspectRequest(), context)
    return plugin.lepton_check(found.model, CheckRequest("tflite", found), context)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_constants_of_unsigned_integers_are_named(kind, context, tmp_path):
    """litert-torch writes them as a constant that MLIR refuses (LPT-CONV-402)."""
    found = inspected(qdq(kind), context, tmp_path)
    assert found.verdict == "impossible"
    assert found.reasons == tuple(
        f"ai.onnx::{operator} ({count} times, first at {where}) takes {kind} constants, which "
        "litert-torch cannot hold: use signed integers, or convert the float model and let "
        "`lepton optimize` make the integers."
        for operator, count, where in (
            ("QuantizeLinear", 1, "node 'first'"),
            ("DequantizeLinear", 2, "node 'd'"),
        )
    )


def test_signed_ones_and_those_that_are_folded_fit(context, tmp_path):
    assert inspected(qdq("int8"), context, tmp_path).verdict == "fits"
    folded = qdq("int8")
    folded.graph.initializer.append(numpy_helper.from_array(np.arange(2, dtype="u1"), "b"))
    folded.graph.node[3].output[0] = "m"
    folded.graph.node.append(helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT))
    folded.graph.node.append(helper.make_node("Add", ["m", "c"], ["y"]))
    assert inspected(folded, context, tmp_path).verdict == "fits"


@pytest.mark.conformance
@pytest.mark.parametrize("kind", ["int8", "uint8", "uint16"])
def test_constants_convert_as_the_check_says(kind, context, tmp_path):
    fits = inspected(qdq(kind), context, tmp_path).verdict == "fits"
    place = replace(context, workdir=tmp_path / "pivot")
    place.workdir.mkdir()
    request = ConvertRequest("tflite", to_format="pivot")
    model = Model("onnx", str(tmp_path / "net.onnx"))
    pivot = onnx_plugin.lepton_convert(model, request, place).model
    if fits:
        assert plugin.lepton_convert(pivot, ConvertRequest("tflite"), context).model.digest
    else:
        with pytest.raises(ConversionError, match="LPT-CONV-402"):
            plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)


@pytest.mark.parametrize(
    ("operator", "says"),
    [("col2im.default", "iota"), ("det.default", "lower"), ("where.default", "on values")],
)
def test_torchs_operators_without_a_kernel_are_known_too(operator, says):
    use = OperatorUse(f"aten.{operator}", 1, where="net.py:9 in forward", convertible=True)
    found = judge(use, domain="aten")
    assert found.verdict == "impossible"
    assert "net.py:9" in found.reasons[0]
    assert says in found.reasons[0]
    gone = OperatorUse("aten.foo", 1, where="net.py:3", convertible=False, note="unknown")
    assert "no way to ONNX: unknown" in judge(gone, domain="aten").reasons[0]


def test_types_that_cannot_be_passed():
    found = judge(spec=TensorSpec("s", "string", ("n",)))
    assert found.verdict == "impossible"
    assert "s: string[n]" in found.reasons[0]
    found = judge(spec=TensorSpec("e", "float32", (0, 3)))
    assert "e: float32[0, 3]" in found.reasons[0]


def test_a_litert_file_fits():
    assert judge(domain="tflite", facts={"storage_precision": "int8"}).precisions == ("int8",)
