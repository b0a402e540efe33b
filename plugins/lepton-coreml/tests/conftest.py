"""Graphs and packages that the tests of lepton-coreml share; each is converted once."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core import recipe as recipes
from lepton_core.context import Context
from lepton_core.recipe import PivotId, Recipe
from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_coreml import plugin
from lepton_onnx import plugin as onnx_plugin


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, array):
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def model(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)


def perceptron():
    rng = np.random.default_rng(0)
    return model(
        [
            node("MatMul", ["x", "fc1.weight"], ["h"]),
            node("Add", ["h", "fc1.bias"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["y"], transB=1),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 4])],
        [
            weight("fc1.weight", rng.normal(size=(8, 32)).astype("f4")),
            weight("fc1.bias", rng.normal(size=32).astype("f4")),
            weight("fc2.weight", rng.normal(size=(4, 32)).astype("f4")),
            weight("fc2.bias", rng.normal(size=4).astype("f4")),
        ],
    )


def network():
    """Convolutions (one in groups), a residual sum, pooling, a wide input name, two outputs."""
    rng = np.random.default_rng(1)
    return model(
        [
            node("Conv", ["in.image", "stem.weight", "stem.bias"], ["s"], pads=[1, 1, 1, 1]),
            node("Relu", ["s"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "deep.weight"], ["d"], group=8, pads=[1, 1, 1, 1]),
            node("Add", ["p", "d"], ["e"]),
            node("GlobalAveragePool", ["e"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "head.weight", "head.bias"], ["logits"], transB=1),
            node("Softmax", ["logits"], ["share"], axis=-1),
        ],
        [value("in.image", ["batch", 3, 8, 8])],
        [value("logits", ["batch", 5]), value("share", ["batch", 5])],
        [
            weight("stem.weight", (rng.normal(size=(8, 3, 3, 3)) / 5).astype("f4")),
            weight("stem.bias", rng.normal(size=8).astype("f4")),
            weight("deep.weight", (rng.normal(size=(8, 1, 3, 3)) / 3).astype("f4")),
            weight("head.weight", rng.normal(size=(5, 8)).astype("f4")),
            weight("head.bias", rng.normal(size=5).astype("f4")),
        ],
    )


def tokens():
    """Integer and boolean inputs and outputs, an embedding, a comparison."""
    rng = np.random.default_rng(2)
    return model(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["m", "last"], ["u"]),
            node("Mul", ["e", "u"], ["kept"]),
            node("ReduceSum", ["kept", "one"], ["y"], keepdims=0),
            node("Greater", ["y", "zero"], ["positive"]),
            node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
        ],
        [
            value("ids", ["batch", 6], TensorProto.INT64),
            value("mask", ["batch", 6], TensorProto.BOOL),
        ],
        [
            value("y", ["batch", 4]),
            value("positive", ["batch", 4], TensorProto.BOOL),
            value("best", ["batch"], TensorProto.INT64),
        ],
        [
            weight("table", rng.normal(size=(20, 4)).astype("f4")),
            weight("last", np.array([2])),
            weight("one", np.array([1])),
            weight("zero", np.array(0, "f4")),
        ],
    )


GRAPHS = {"perceptron": perceptron, "network": network, "tokens": tokens}


def to_pivot(proto, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    request = ConvertRequest("coreml", "pivot")
    return onnx_plugin.lepton_convert(Model("onnx", str(path)), request, Context(folder)).model


@pytest.fixture(scope="session")
def graphs():
    return SimpleNamespace(
        value=value, weight=weight, model=model, node=node, to_pivot=to_pivot, **GRAPHS
    )


@pytest.fixture(scope="session")
def pivots(tmp_path_factory):
    """Pivots by name, made once."""
    made = {}

    def call(name):
        if name not in made:
            made[name] = to_pivot(GRAPHS[name](), tmp_path_factory.mktemp(name))
        return made[name]

    return call


@pytest.fixture(scope="session")
def converted(pivots, tmp_path_factory):
    """Results of conversions by name of the graph and request; each is made once."""
    made = {}

    def call(name, precision="fp32", device=None, recipe=None):
        key = (name, precision, device, recipe)
        if key not in made:
            request = ConvertRequest("coreml", precision=precision, device=device, recipe=recipe)
            context = Context(tmp_path_factory.mktemp(f"{name}-{precision}"))
            made[key] = plugin.lepton_convert(pivots(name), request, context)
        return made[key]

    return call


@pytest.fixture
def convert(tmp_path):
    """Lower a recipe for a pivot; each call has a folder of its own."""
    count = iter(range(100))

    def call(pivot, scheme, arrays, device="ios18", options=None, **parts):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        parts = {"tensors": {}, "layers": {}} | parts
        recipe = Recipe(PivotId(pivot.digest, 21), scheme, **parts)
        path = recipes.write(recipe, folder / "recipe.json", integers=arrays)
        request = ConvertRequest(
            "coreml", precision="int8", recipe=str(path), device=device, options=options or {}
        )
        return plugin.lepton_convert(pivot, request, Context(folder))

    return call


@pytest.fixture
def copied(converted, tmp_path):
    """A package of one's own to damage."""

    def call(name="perceptron", **wanted):
        model = converted(name, **wanted).model
        place = tmp_path / "copy.mlpackage"
        shutil.copytree(model.path, place)
        return model.evolve(path=str(place), digest="")

    return call


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Context(folder)


@pytest.fixture
def opened(context):
    """Open a model; the session is closed after the test."""
    sessions = []

    def call(model, **wanted):
        sessions.append(plugin.lepton_open(model, OpenRequest("coreml", **wanted), context))
        return sessions[-1]

    yield call
    for session in sessions:
        session.close()


@pytest.fixture(scope="session")
def reference():
    """Run a pivot with ONNX's own reference evaluator."""

    def call(pivot, feed):
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(pivot.path)
        names = [spec.name for spec in pivot.signature.outputs]
        return dict(zip(names, session.run(None, dict(feed)), strict=True))

    return call


@pytest.fixture(scope="session")
def feeds():
    """Inputs by name of the graph."""

    def call(name, rows=3):
        rng = np.random.default_rng(5)
        return {
            "perceptron": lambda: {"x": rng.normal(size=(rows, 8)).astype("f4")},
            "network": lambda: {"in.image": rng.normal(size=(rows, 3, 8, 8)).astype("f4")},
            "tokens": lambda: {
                "ids": rng.integers(0, 20, (rows, 6)),
                "mask": rng.integers(0, 2, (rows, 6)) > 0,
            },
        }[name]()

    return call
