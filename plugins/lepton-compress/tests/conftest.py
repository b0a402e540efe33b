"""Pivots of trained and of small hand-made networks that the tests share."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_core as lepton
from lepton_core import hooks
from lepton_core.context import Context
from lepton_core.types import Model
from lepton_onnx import freeze
from lepton_onnx.external import digest

node = helper.make_node


def build(path, nodes, weights, shape=("n", 3, 16, 16), outputs=("y",), opset=21):
    """Write a pivot with the float input ``x``."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    freeze(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return Model("pivot", str(path), digest=digest(path), metadata={"opset": opset})


def rand(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


def conv(source, weight, bias, result):
    return node("Conv", [source, weight, bias], [result], pads=[1, 1, 1, 1])


CONVS = {
    "w1": rand(8, 3, 3, 3, seed=1), "b1": rand(8, seed=2),
    "w2": rand(8, 8, 3, 3, seed=3), "b2": rand(8, seed=4),
    "w3": rand(8, 8, 3, 3, seed=5), "b3": rand(8, seed=6),
}  # fmt: skip


@pytest.fixture
def graphs(tmp_path):
    numbers = iter(range(100))

    def make(nodes, weights, **options):
        return build(tmp_path / f"pivot-{next(numbers)}.onnx", nodes, weights, **options)

    return SimpleNamespace(build=make, node=node, conv=conv, rand=rand, convs=CONVS)


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Context(folder, hooks=hooks.default())


@pytest.fixture
def context_of(tmp_path):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        return Context(folder, hooks=hooks.default())

    return make


def _digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16.0).astype(np.float32)[:, None], data.target.astype(np.int64)


def _network(kind):
    import torch
    from torch import nn

    class Lstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(8, 24, batch_first=True)
            self.head = nn.Linear(24, 10)

        def forward(self, image):
            return {"logits": self.head(self.rnn(image[:, 0])[0][:, -1])}

    class Encoder(nn.Module):
        def __init__(self, width=32):
            super().__init__()
            layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
            self.embed = nn.Linear(8, width)
            self.place = nn.Parameter(torch.zeros(8, width))
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(width, 10)

        def forward(self, image):
            return {"logits": self.head(self.body(self.embed(image[:, 0]) + self.place).mean(1))}

    class Named(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, image):
            return {"logits": self.body(image)}

    if kind == "lstm":
        return Lstm()
    if kind == "encoder":
        return Encoder()
    if kind == "wide":
        return Encoder(64)
    if kind == "mlp":
        hidden = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()]
        return Named(nn.Sequential(*hidden, nn.Linear(32, 10)))
    return Named(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10),
        )
    )  # fmt: skip


def train(kind, images, labels, epochs=15):
    """Train a small network on digits; the same every time."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = _network(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows])["logits"], y[rows]).backward()
            optimizer.step()
    return model.eval()


def export(model, folder):
    """Return the pivot of a trained network, by way of its exported program."""
    import torch

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about recurrent layers
        program = torch.export.export(
            model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes={"image": {0: batch}}
        )
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / "net.pt2")
    work = folder / "work"
    work.mkdir()
    return lepton.convert(
        str(folder / "net.pt2"), target="onnxruntime", to_format="pivot", context=Context(work)
    ).model


@pytest.fixture(scope="session")
def digits():
    return _digits()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, digits):
    """Return a function of a kind of network: its pivot, trained on the first 900 digits."""
    made = {}
    images, labels = digits

    def get(kind):
        if kind not in made:
            model = train(kind, images[:900], labels[:900])
            made[kind] = export(model, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.fixture(scope="session")
def held_npz(tmp_path_factory, digits):
    """The other digits, as a sample file."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, image=digits[0][900:], labels=digits[1][900:])
    return str(path)


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(train=train, export=export)
