"""What is known before anything is converted."""

from __future__ import annotations

import pytest

from lepton_core.types import (
    CheckRequest,
    InspectResult,
    Model,
    OperatorUse,
    Signature,
    TensorSpec,
)
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
        ("ai.onnx::TopK", "sort"),
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


def test_sorting_in_torch_is_known_too():
    use = OperatorUse("aten.topk.default", 1, where="net.py:9 in forward", convertible=True)
    found = judge(use, domain="aten")
    assert found.verdict == "impossible"
    assert "net.py:9" in found.reasons[0]
    gone = OperatorUse("aten.foo", 1, where="net.py:3", convertible=False, note="unknown")
    assert "no way to ONNX: unknown" in judge(gone, domain="aten").reasons[0]


def test_types_that_cannot_be_passed():
    found = judge(spec=TensorSpec("s", "string", ("n",)))
    assert found.verdict == "impossible"
    assert "s: string[n]" in found.reasons[0]


def test_a_litert_file_fits():
    assert judge(domain="tflite", facts={"storage_precision": "int8"}).precisions == ("int8",)
