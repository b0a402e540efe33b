"""Pivots, built here, that the tests of lepton-onnxruntime share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model
from lepton_onnx import plugin as onnx_plugin


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, weights=(), opset=21, ir=10, domains=()):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def mlp(width=32):
    rng = np.random.default_rng(0)
    return model(
        [
            helper.make_node("MatMul", ["x", "fc1.weight"], ["h"]),
            helper.make_node("Add", ["h", "fc1.bias"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["y"], name="last"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 4])],
        [
            weight("fc1.weight", rng.normal(size=(8, width)).astype("f4")),
            weight("fc1.bias", rng.normal(size=width).astype("f4")),
            weight("fc2.weight", rng.normal(size=(width, 4)).astype("f4")),
            weight("fc2.bias", rng.normal(size=4).astype("f4")),
        ],
    )


@pytest.fixture
def graphs():
    return SimpleNamespace(value=value, weight=weight, model=model, mlp=mlp, node=helper.make_node)


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Context(folder)


@pytest.fixture
def to_pivot(tmp_path):
    """Freeze a graph; returns the pivot."""

    def call(proto, name="source"):
        folder = tmp_path / name
        folder.mkdir()
        path = folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        request = ConvertRequest("onnxruntime", "pivot")
        return onnx_plugin.lepton_convert(Model("onnx", str(path)), request, Context(folder)).model

    return call
