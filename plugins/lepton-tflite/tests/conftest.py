"""Files that the tests of lepton-tflite share: each is converted once, as that takes seconds."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_onnx import plugin as onnx_plugin
from lepton_tflite import plugin


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def small():
    """A network with a convolution, a pool, a lookup by int64, and two outputs."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    return model(
        [
            node("Conv", ["image", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "fc.weight", "fc.bias"], ["g"], transB=1),
            node("Gather", ["table", "kind"], ["e"]),
            node("Add", ["g", "e"], ["scores"]),
            node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        ],
        [value("image", ["batch", 1, 8, 8]), value("kind", ["batch"], TensorProto.INT64)],
        [value("scores", ["batch", 5]), value("best", ["batch"], TensorProto.INT64)],
        [
            weight("conv.weight", rng.normal(size=(4, 1, 3, 3)).astype("f4")),
            weight("conv.bias", rng.normal(size=4).astype("f4")),
            weight("fc.weight", (rng.normal(size=(5, 64)) / 8).astype("f4")),
            weight("fc.bias", rng.normal(size=5).astype("f4")),
            weight("table", rng.normal(size=(3, 5)).astype("f4")),
        ],
    )


def inputs_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(rows, 1, 8, 8)).astype("f4"),
        "kind": rng.integers(0, 3, rows),
    }


@pytest.fixture(scope="session")
def graphs():
    return SimpleNamespace(
        value=value, weight=weight, model=model, small=small, inputs=inputs_of,
        node=helper.make_node,
    )  # fmt: skip


@pytest.fixture(scope="session")
def handmade():
    """The module that writes files of a few operators."""
    place = Path(__file__).with_name("_handmade.py")
    spec = importlib.util.spec_from_file_location("lepton_tflite_handmade", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def to_pivot(tmp_path_factory):
    """Freeze a graph; returns the pivot."""

    def call(proto):
        folder = tmp_path_factory.mktemp("pivot")
        (folder / "source.onnx").write_bytes(proto.SerializeToString())
        source = Model("onnx", str(folder / "source.onnx"))
        request = ConvertRequest("tflite", "pivot")
        return onnx_plugin.lepton_convert(source, request, Context(folder)).model

    return call


@pytest.fixture(scope="session")
def convert(tmp_path_factory):
    """Convert a pivot into a folder of its own; returns the result."""
    pytest.importorskip("litert_torch")

    def call(pivot, **wanted):
        folder = tmp_path_factory.mktemp("tflite")
        return plugin.lepton_convert(pivot, ConvertRequest("tflite", **wanted), Context(folder))

    return call


@pytest.fixture(scope="session")
def pivot(to_pivot):
    return to_pivot(small())


@pytest.fixture(scope="session")
def single(convert, pivot):
    """The small network as float32."""
    return convert(pivot)


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Context(folder)


@pytest.fixture
def opened(tmp_path):
    """Open a model; the session is closed after the test."""
    sessions = []

    def call(model, **wanted):
        context = Context(tmp_path)
        sessions.append(plugin.lepton_open(model, OpenRequest("tflite", **wanted), context))
        return sessions[-1]

    yield call
    for session in sessions:
        session.close()


@pytest.fixture(scope="session")
def expected():
    """Run a pivot with ONNX's own evaluator."""

    def call(pivot, inputs):
        from onnx.reference import ReferenceEvaluator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ReferenceEvaluator(pivot.path)
            return dict(zip(session.output_names, session.run(None, inputs), strict=True))

    return call
