"""Small networks trained on scikit-learn's digits, as pivots with a recipe for int8."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lepton_core.context import Context
from lepton_core.sources import resolve
from lepton_core.types import ConvertRequest, InspectRequest, OptimizeRequest

if TYPE_CHECKING:
    from lepton_core.types import Model

TRAINED = 900
"""Digits that a network is trained on; ranges are calibrated on the last 200 of them."""
CALIBRATED = 200
EPOCHS = 12


class Cnn(nn.Module):
    """Convolutions with a residual sum, both kinds of pooling, two Gemm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(128, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        x = self.stem(image).relu()
        x = (x + self.body(x)).relu()
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.avg_pool2d(self.wide(x).relu(), 2)
        return {"logits": self.head(self.hidden(x.flatten(1)).relu())}


class Mobile(nn.Module):
    """Depthwise convolutions, a gate of sigmoid and Mul, means by AveragePool and ReduceMean."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.depth = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point = nn.Conv2d(24, 24, 1)
        self.squeeze = nn.Conv2d(24, 8, 1)
        self.excite = nn.Conv2d(8, 24, 1)
        self.down = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24)
        self.last = nn.Conv2d(24, 48, 1)
        self.head = nn.Linear(48, 10)

    def forward(self, image):
        x = nn.functional.relu6(self.stem(image))
        y = self.point(nn.functional.relu6(self.depth(x)))
        mean = nn.functional.avg_pool2d(y, 8)
        x = x + y * torch.sigmoid(self.excite(self.squeeze(mean).relu()))
        x = nn.functional.relu6(self.last(nn.functional.relu6(self.down(x))))
        return {"logits": self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))}


class Unet(nn.Module):
    """Down and up again: Resize (nearest and bilinear), ConvTranspose, Concat with the skips."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.raise_deep = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.join = nn.Conv2d(56, 16, 3, padding=1)
        self.last = nn.Conv2d(44, 8, 3, padding=1)
        self.head = nn.Linear(128, 10)

    def forward(self, image):
        full = self.stem(image).relu()
        half = self.down(full).relu()
        deep = self.deep(half).relu()
        wide = nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        x = torch.cat([half, wide, self.raise_deep(deep).relu()], 1)
        x = self.join(x).relu()
        smooth = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        plain = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.last(torch.cat([full, smooth, plain], 1)).relu()
        return {"logits": self.head(nn.functional.max_pool2d(x, 2).flatten(1))}


NETWORKS = {
    "cnn": (Cnn, {}),
    "mobile": (Mobile, {}),
    "unet": (Unet, {}),
    "cnn, products": (Cnn, {"means": "product"}),
    "mobile, products": (Mobile, {"means": "product"}),
}
"""Modules, and the options that they are calibrated with."""


@dataclass(frozen=True)
class Prepared:
    """A trained network on its way to the runtimes.

    Attributes:
        name: Which one.
        pivot: Its pivot.
        recipe: Path of the recipe.
        held: Digits that neither training nor calibration saw: float32 (rows, 1, 8, 8).
        labels: Their digits.
    """

    name: str
    pivot: Model
    recipe: Path
    held: np.ndarray
    labels: np.ndarray


def prepare(name, folder, hooks, rows=None, epochs=EPOCHS):
    """Train a network, export it and calibrate a recipe; the same every time.

    Args:
        name: Of :data:`NETWORKS`.
        folder: Where the files go; it is made.
        hooks: Calls the plugins.
        rows: How many held-out digits; all 897 by default.
        epochs: How long it is trained.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    folder.mkdir(parents=True)
    kind, options = NETWORKS[name]
    net = _train(kind, images[:TRAINED], data.target[:TRAINED], epochs)
    pivot = _pivot(net, folder, hooks)
    np.savez(folder / "calibration.npz", image=images[TRAINED - CALIBRATED : TRAINED])
    request = OptimizeRequest(
        "onnxruntime",
        samples=str(folder / "calibration.npz"),
        options={"recover": "none", **options},
    )
    made = hooks.optimize(pivot, request, _context(folder / "optimize", hooks))
    held = slice(TRAINED, None if rows is None else TRAINED + rows)
    return Prepared(name, pivot, Path(made.recipe), images[held], data.target[held])


def _train(kind, images, labels, epochs):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = kind()
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            (out,) = net(x[rows]).values()
            loss = nn.functional.cross_entropy(out, y[rows])
            loss.backward()
            optimizer.step()
    return net.eval()


def _pivot(net, folder, hooks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(
            net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes={"image": {0: torch.export.Dim("n")}}
        )
    torch.export.save(program, folder / "net.pt2")
    source = resolve(str(folder / "net.pt2"), hooks.registry)
    request = InspectRequest(operators=False)
    read = hooks.inspect(source, request, _context(folder / "inspect", hooks)).model
    request = ConvertRequest("onnxruntime", to_format="pivot")
    return hooks.convert(read, request, _context(folder / "pivot", hooks)).model


def _context(folder, hooks):
    folder.mkdir(parents=True)
    return Context(folder, hooks=hooks)
