"""ONNX Runtime passes the conformance kit, from outside, as a vendor's target would."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.testing.conformance import TargetConformance
from lepton_core.types import Model
from lepton_onnxruntime import info, plugin


def small_onnx(path):
    """Write ``y = relu(x @ w + b)`` with a symbolic batch."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 300)), "b": rng.normal(size=300)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], "gemm"),
            helper.make_node("Relu", ["h"], ["y"], "relu"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


class TestOnnxRuntime(TargetConformance):
    plugin, info = plugin, info.INFO
    tells_execution = True

    @pytest.fixture
    def source(self, tmp_path):
        from lepton_onnx import pivot, signature

        frozen = tmp_path / "pivot.onnx"
        pivot.freeze(small_onnx(tmp_path / "small.onnx"), frozen)
        return Model("pivot", str(frozen), signature=signature(frozen), digest="sha256:0")
