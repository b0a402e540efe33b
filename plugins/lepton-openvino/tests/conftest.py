"""Pivots that the tests of lepton-openvino share: small graphs, and networks from torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_onnx import plugin as onnx_plugin
from lepton_openvino import plugin


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, weights=(), opset=21, domains=()):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def mlp(width=32, scale=1.0):
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
            weight("fc1.weight", (scale * rng.normal(size=(8, width))).astype("f4")),
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
        request = ConvertRequest("openvino", "pivot")
        return onnx_plugin.lepton_convert(Model("onnx", str(path)), request, Context(folder)).model

    return call


@pytest.fixture
def convert(tmp_path):
    """Convert a pivot into a folder of its own; returns the result."""

    def call(pivot, precision="fp32", name=None):
        folder = tmp_path / (name or f"ir-{precision}")
        folder.mkdir()
        return plugin.lepton_convert(
            pivot, ConvertRequest("openvino", precision=precision), Context(folder)
        )

    return call


@pytest.fixture
def opened(context):
    """Open a model; the session is closed after the test."""
    sessions = []

    def call(model, **wanted):
        sessions.append(plugin.lepton_open(model, OpenRequest("openvino", **wanted), context))
        return sessions[-1]

    yield call
    for session in sessions:
        session.close()


@pytest.fixture
def run_python(tmp_path):
    """Run a program in a fresh interpreter; returns what it printed as JSON."""

    def call(program, *arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return call


# --- networks ---------------------------------------------------------------------------------


def _digits_network(torch):
    """A small convolutional network, trained on scikit-learn's digits for a few seconds."""
    from sklearn.datasets import load_digits

    nn = torch.nn
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny layers: more threads only wait for each other
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(6):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    feed = {"image": images[1400:].numpy()}
    return net, (images[:2],), {"image": {0: "batch"}}, ["logits"], feed, labels[1400:].numpy()


def _encoder(torch):
    nn = torch.nn
    torch.manual_seed(1)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
            self.layers = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(64, 7)

        def forward(self, x):
            return self.head(self.layers(x).mean(1))

    x = torch.randn(3, 9, 64)
    return Encoder(), (x,), {"x": {0: "batch", 1: "time"}}, ["y"], {"x": x.numpy()}, None


def _lstm(torch):
    nn = torch.nn
    torch.manual_seed(2)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(32, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    x = torch.randn(4, 6, 8)
    return Recurrent(), (x,), {"x": {0: "batch"}}, ["y"], {"x": x.numpy()}, None


def _tokens(torch):
    """Several int64 inputs, several outputs, one of them int64; inputs are used in reverse."""
    nn = torch.nn
    torch.manual_seed(3)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 16)
            self.kinds = nn.Embedding(2, 16)
            self.head = nn.Linear(16, 5)

        def forward(self, token_ids, kind_ids, mask):
            kept = mask.unsqueeze(-1).to(torch.float32)
            states = (self.kinds(kind_ids) + self.words(token_ids)) * kept
            return self.head(states.sum(1)), mask.sum(1), states

    rng = np.random.default_rng(0)
    feed = {
        "token_ids": rng.integers(0, 50, (5, 11)),
        "kind_ids": rng.integers(0, 2, (5, 11)),
        "mask": rng.integers(0, 2, (5, 11)),
    }
    example = tuple(torch.tensor(array[:2]) for array in feed.values())
    axes = {name: {0: "batch", 1: "time"} for name in feed}
    return Tokens(), example, axes, ["logits", "count", "states"], feed, None


NETWORKS = {
    "digits": _digits_network,
    "encoder": _encoder,
    "lstm": _lstm,
    "tokens": _tokens,
}


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Networks by name as pivots, with inputs, torch's own outputs, and labels if there are any."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    pytest.importorskip("sklearn")
    made = {}

    def call(name):
        if name not in made:
            made[name] = _network(torch, name, tmp_path_factory.mktemp(name))
        return made[name]

    return call


def _network(torch, name, folder):
    net, example, axes, outputs, feed, labels = NETWORKS[name](torch)
    net.eval()
    with torch.no_grad():
        expected = net(*(torch.tensor(array) for array in feed.values()))
    expected = expected if isinstance(expected, tuple) else (expected,)
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            example,
            dynamo=True,
            verbose=False,
            opset_version=21,
            input_names=list(feed),
            output_names=outputs,
            dynamic_shapes=tuple(
                {i: torch.export.Dim(d) for i, d in axes[n].items()} for n in feed
            ),
        ).save(str(path))
    request = ConvertRequest("openvino", "pivot")
    pivot = onnx_plugin.lepton_convert(Model("onnx", str(path)), request, Context(folder)).model
    return SimpleNamespace(
        pivot=pivot,
        feed=feed,
        expected=dict(zip(outputs, (t.numpy() for t in expected), strict=True)),
        labels=labels,
    )
