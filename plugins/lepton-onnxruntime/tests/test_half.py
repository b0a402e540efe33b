"""Float16 files open with default options, where ONNX Runtime's own fusions would crash."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_onnx import float16
from lepton_onnxruntime._half import write_half


def transposed_product():
    """``y = (x^T)^T @ w`` through two transpositions around a matrix product."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(32, 32)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], "t", perm=[1, 0, 2]),
            helper.make_node("MatMul", ["t", "w"], ["m"], "m"),
            helper.make_node("Transpose", ["m"], ["y"], "back", perm=[1, 0, 2]),
        ],
        "transposed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6, 32])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def opens(path):
    code = "import sys, onnxruntime as o; o.InferenceSession(sys.argv[1])"
    return (
        subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, check=False
        ).returncode
        == 0
    )


def test_a_graph_on_which_the_runtime_dies_is_written_so_that_it_opens(tmp_path):
    import onnxruntime as ort

    proto = transposed_product()
    plain = tmp_path / "plain.onnx"
    onnx.save(float16.convert(proto).model, plain)
    model, facts, _ = write_half(proto, tmp_path / "half.onnx", ())
    assert opens(tmp_path / "half.onnx")
    # Where a later runtime opens the plain form, that form must be the one that is written.
    assert ("workaround" in facts) is not opens(plain)
    x = np.random.default_rng(1).normal(size=(3, 6, 32)).astype(np.float32)
    wanted = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    given = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(given - wanted) <= 2e-2 * np.linalg.norm(wanted)


def test_a_harmless_graph_is_written_as_it_is(tmp_path):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "m")],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    _, facts, _ = write_half(proto, tmp_path / "half.onnx", ())
    assert "workaround" not in facts


def test_a_runtime_that_always_dies_is_an_error_with_the_signal(tmp_path, monkeypatch):
    from lepton_core.errors import ConversionError
    from lepton_onnxruntime import _half

    monkeypatch.setattr(_half, "_OPEN", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ConversionError, match="LPT-CONV-214") as caught:
        write_half(transposed_product(), tmp_path / "half.onnx", ())
    assert "signal 11" in caught.value.cause
