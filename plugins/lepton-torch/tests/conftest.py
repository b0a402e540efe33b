"""Fixtures: user files on disk, the plugin's hooks called as lepton calls them."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, ConvertResult, InspectRequest, Model, OpenRequest
from lepton_torch import plugin

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

# Test modules have no package to share helpers in.
_spec = importlib.util.spec_from_file_location("adapting", Path(__file__).with_name("adapting.py"))
assert _spec
assert _spec.loader
sys.modules["adapting"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["adapting"])


@dataclass
class Hooks:
    """The plugin's hooks with a fresh work directory per call."""

    make_directory: Callable[[], Path]

    def context(self, seed: int = 0) -> Context:
        return Context(self.make_directory(), seed=seed)

    def materialise(self, model: Model, seed: int = 0, **request: Any) -> ConvertResult:
        asked = ConvertRequest("torch", to_format="torch.export", **request)
        return plugin.lepton_convert(model, asked, self.context(seed))

    def pivot(self, model: Model, **request: Any) -> ConvertResult:
        asked = ConvertRequest("onnxruntime", to_format="pivot", **request)
        return plugin.lepton_convert(model, asked, self.context())

    def inspect(self, model: Model) -> Any:
        return plugin.lepton_inspect(model, InspectRequest(), self.context())

    def open(self, model: Model, **request: Any) -> Any:
        return plugin.lepton_open(model, OpenRequest("torch", **request), self.context())


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    return Hooks(lambda: tmp_path_factory.mktemp("work"))


@pytest.fixture
def factory(tmp_path: Path) -> Callable[..., Model]:
    """Write a user's file and return the model that names a factory in it."""

    def write(source: str, entry: str = "net", name: str = "user_net.py") -> Model:
        path = tmp_path / name
        path.write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(source))
        return Model("torch.factory", str(path), entry)

    return write


DIGITS = """
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Linear(8 * 16, 10)

    def forward(self, image):
        return {"logits": self.classifier(self.features(image).flatten(1))}


def net():
    module = DigitNet()
    weights = Path(__file__).with_name("digits.safetensors")
    if weights.exists():
        module.load_state_dict(load_file(weights))
    return module, {"image": torch.zeros(1, 1, 8, 8)}
"""


@dataclass
class Digits:
    """A trained model on disk and rows it was not trained on."""

    model: Model
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """Train a small convolutional network on scikit-learn's handwritten digits (seconds)."""
    import runpy

    import torch
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    path = folder / "digits.py"
    path.write_text(DIGITS)
    data = load_digits()
    images = (data.images[:, None] / 16).astype("float32")
    torch.manual_seed(0)
    module, _ = runpy.run_path(str(path))["net"]()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    x, y = torch.from_numpy(images[:1400]), torch.from_numpy(data.target[:1400])
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x)["logits"], y).backward()
        optimizer.step()
    save_file(module.state_dict(), str(folder / "digits.safetensors"))
    return Digits(Model("torch.factory", str(path), "net"), images[1400:], data.target[1400:])


@pytest.fixture(scope="session")
def digits_program(digits: Digits, hooks: Hooks) -> ConvertResult:
    return hooks.materialise(digits.model)
