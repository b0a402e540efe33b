"""The pre-flight judgement, from inspections alone."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from lepton_core.types import CheckRequest, InspectRequest, InspectResult, Model, OperatorUse
from lepton_onnx import plugin as onnx_plugin
from lepton_onnxruntime import _runtime, plugin
from lepton_onnxruntime.info import INFO


def judged(found, context):
    request = CheckRequest("onnxruntime", found)
    return plugin.lepton_check(found.model, request, context)


def inspected(proto, tmp_path, context):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return onnx_plugin.lepton_inspect(Model("onnx", str(path)), InspectRequest(), context)


def test_an_onnx_model_with_dynamic_batch_fits(graphs, tmp_path, context):
    result = judged(inspected(graphs.mlp(), tmp_path, context), context)
    assert result.verdict == "fits"
    assert result.precisions == ("fp32", "fp16")


@pytest.mark.parametrize("installed", [True, False])
def test_a_custom_operator_is_impossible_and_named(
    graphs, tmp_path, context, monkeypatch, installed
):
    proto = graphs.model(
        [graphs.node("Foo", ["x"], ["y"], name="here", domain="acme")],
        [graphs.value("x", [2])],
        [graphs.value("y", [2])],
        domains=["acme"],
    )
    if not installed:
        monkeypatch.setattr(_runtime, "known_operators", dict)
    result = judged(inspected(proto, tmp_path, context), context)
    assert result.verdict == "impossible"
    assert "acme::Foo" in result.reasons[0]
    assert "'here'" in result.reasons[0]


def test_types_that_a_session_cannot_pass_are_impossible(graphs, tmp_path, context):
    """ONNX Runtime loads such a model, and then takes no array for it."""
    proto = graphs.model(
        [graphs.node("Cast", ["x"], ["y"], to=1)],
        [graphs.value("x", [2], TensorProto.BFLOAT16)],
        [graphs.value("y", [2])],
    )
    result = judged(inspected(proto, tmp_path, context), context)
    assert result.verdict == "impossible"
    assert "x: bfloat16[2] is of a kind" in result.reasons[0]


def test_an_opset_that_the_runtime_does_not_load_is_impossible(context, monkeypatch):
    found = InspectResult(Model("onnx", "m.onnx"), domain="onnx", facts={"opset": 99})
    monkeypatch.setattr(_runtime, "accepts_opset", lambda opset: opset < 50)
    result = judged(found, context)
    assert result.verdict == "impossible"
    assert "opset 99" in result.reasons[0]


def test_torch_operators_are_judged_by_whether_they_convert(context):
    fine = OperatorUse("aten.relu.default", 2, "net.py:3 in forward", convertible=True)
    unknown = OperatorUse("aten.odd.default", 1, "net.py:4 in forward")
    bad = OperatorUse("aten._fft_r2c.default", 1, "net.py:9 in forward", convertible=False)
    model = Model("torch.factory", "net.py", entry="net")
    assert judged(InspectResult(model, (fine, unknown), "aten"), context).verdict == "fits"
    result = judged(InspectResult(model, (fine, bad), "aten"), context)
    assert result.verdict == "impossible"
    assert "net.py:9 in forward" in result.reasons[0]


def test_the_installed_runtime_takes_every_declared_opset():
    low, high = INFO.constraints.opsets
    assert all(_runtime.accepts_opset(opset) for opset in range(low, high + 1))
    assert not _runtime.accepts_opset(9999)
    assert "Conv" in _runtime.known_operators()[""]
