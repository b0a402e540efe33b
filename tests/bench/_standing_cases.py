"""Trained networks that int8 is hard for, each for a reason of its own, and what is known of them.

All are small (a few thousand weights, seconds to train, the same every time) and trained on data
that scikit-learn ships. Three are *rescaled* after training, so that they compute the same function
as before with channels of very different ranges, as networks in the wild have them:

========== ================================================================ =====================
case       network                                                          what is hard
========== ================================================================ =====================
cnn        two convolutions and a matrix on digits                          nothing
rescaled   depthwise separable convolutions on digits, channels rescaled    ranges between channels
detector   boxes in pixels and class scores from one convolution            a head that mixes scales
outliers   pre-norm transformer on rows of digits, two channels rescaled    outlier channels
lstm       an LSTM over rows of digits                                      recurrent state
tabular    raw measurements of cells, standardised by the first matrix      inputs of all scales
embedding  unit vectors of digits, near for equal ones                      an output that is normed
========== ================================================================ =====================

``build(name, folder)`` trains one, exports it and writes its samples.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lepton_core.types import Model

PIXELS = 640.0
"""Side of a detector's picture in the units of its boxes."""


@dataclass(frozen=True)
class Case:
    """One trained network.

    Attributes:
        name: Its name here.
        pivot: The frozen graph.
        input: Name of its only input.
        output: Name of its only output.
        calibration: ``.npz`` of inputs to compress with, training rows, without labels.
        inputs: Held-out rows, float32, first axis rows.
        labels: Their labels, int64.
        classes: Returns the class of each row from an output.
    """

    name: str
    pivot: Model
    input: str
    output: str
    calibration: str
    inputs: np.ndarray
    labels: np.ndarray
    classes: Callable[[np.ndarray], np.ndarray]

    def accuracy(self, output: np.ndarray) -> float:
        """Share of the held-out rows that get the right class."""
        return float((self.classes(output) == self.labels).mean())


# --- networks ----------------------------------------------------------------------------------


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32)])
        self.head = nn.Linear(512, 10)

    def forward(self, image):
        x = torch.relu(self.norms[0](self.first(image)))
        x = torch.relu(self.norms[1](self.second(x)))
        return {"logits": self.head(nn.functional.max_pool2d(x, 2).flatten(1))}


class Separable(nn.Module):
    """A convolution, then depthwise and pointwise ones in turn, each with batch norm and ReLU."""

    def __init__(self, width=24, blocks=3):
        super().__init__()
        shapes = [(1, width, 3, 1)]
        for _ in range(blocks):
            shapes += [(width, width, 3, width), (width, width, 1, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, padding=k // 2, groups=g) for i, o, k, g in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in shapes)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return {"logits": self.head(x.mean((2, 3)))}

    @torch.no_grad()
    def rescale(self, seed=0, octaves=5.0):
        """Fold the norms, then multiply channel i by t_i and divide it out again in the next."""
        random = torch.Generator().manual_seed(seed)
        for index, norm in enumerate(self.norms):
            self.convs[index] = nn.utils.fuse_conv_bn_eval(self.convs[index], norm)
            self.norms[index] = nn.Identity()
        for first, second in zip(self.convs[:-1], self.convs[1:], strict=True):
            size = first.out_channels
            factor = 2 ** (octaves * (2 * torch.rand(size, generator=random) - 1))
            first.weight.mul_(factor.view(-1, 1, 1, 1))
            first.bias.mul_(factor)
            deep = second.groups == size
            second.weight.div_(factor.view(-1, 1, 1, 1) if deep else factor.view(1, -1, 1, 1))


class Detector(nn.Module):
    """One object on a 16x16 canvas: its box in pixels and ten scores, from one convolution.

    Scores are linear and learnt by squared error, as in YOLO (Redmon et al. 2016).
    """

    def __init__(self, width=24):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width),
            nn.ReLU(), nn.Conv2d(2 * width, 64, 4), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Conv2d(64, 14, 1)

    def forward(self, image):
        return {"detections": self.head(self.body(image)).flatten(1)}


class Block(nn.Module):
    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        n, t, w = x.shape
        parts = self.joint(self.before(x)).view(n, t, 3, self.heads, w // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weight = torch.softmax(q @ k.transpose(-1, -2) / (w // self.heads) ** 0.5, -1)
        x = x + self.out((weight @ v).transpose(1, 2).reshape(n, t, w))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image):
        x = self.blocks(self.embed(image[:, 0]) + self.place)
        return {"logits": self.head(self.norm(x).mean(1))}

    @torch.no_grad()
    def rescale(self, channels=(3, 17), factor=256.0):
        """Make some channels of every norm large, and divide them out in what reads it."""
        for block in self.blocks:
            for norm, reader in ((block.before, block.joint), (block.between, block.up)):
                for channel in channels:
                    norm.weight[channel] *= factor
                    norm.bias[channel] *= factor
                    reader.weight[:, channel] /= factor


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, image):
        return {"logits": self.head(self.rnn(image[:, 0])[0][:, -1])}


class Tabular(nn.Module):
    def __init__(self, inputs=30):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    def forward(self, cells):
        return {"logits": self.layers(cells)}

    @torch.no_grad()
    def standardise(self, mean, deviation):
        """Let the first layer take raw features instead of standardised ones."""
        first = self.layers[0]
        first.weight.div_(deviation)
        first.bias.sub_(first.weight @ mean)


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32),
        )  # fmt: skip

    def forward(self, image):
        return {"vector": nn.functional.normalize(self.body(image), dim=-1)}


# --- data --------------------------------------------------------------------------------------


def _divide(inputs, labels, seed=0):
    """Return training and held-out rows, one half each."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    half = len(inputs) // 2
    return [(inputs[rows], labels[rows]) for rows in (order[:half], order[half:])]


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    return _divide(images, data.target.astype(np.int64))


def cells():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return _divide(data.data.astype(np.float32), data.target.astype(np.int64))


def scenes(rows, seed):
    """Put each digit somewhere on a canvas; return pictures and boxes ``(x, y, w, h)``."""
    images, labels = rows
    random = np.random.default_rng(seed)
    canvas = np.zeros((len(images), 1, 16, 16), np.float32)
    boxes = np.zeros((len(images), 4), np.float32)
    for number, image in enumerate(images[:, 0]):
        top, left = random.integers(0, 9, 2)
        canvas[number, 0, top : top + 8, left : left + 8] = image
        tall, wide = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        size = wide[-1] - wide[0] + 1, tall[-1] - tall[0] + 1
        boxes[number] = left + wide[0] + size[0] / 2, top + tall[0] + size[1] / 2, *size
    return canvas, labels, boxes * (PIXELS / 16)


# --- training ----------------------------------------------------------------------------------


def fit(model, inputs, loss, epochs, rate=4e-3):
    """Train on rows of *inputs*; ``loss(model, rows)`` picks what belongs to them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = epochs * -(-len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss(model, rows).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _classifier(make, rows, epochs=15):
    torch.manual_seed(0)
    x, y = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])

    def loss(model, chosen):
        return nn.functional.cross_entropy(model(x[chosen])["logits"], y[chosen])

    return fit(make(), x, loss, epochs)


def _top(output):
    return output.argmax(1)


def _simple(make, **options):
    def train():
        seen, held = digits()
        return _classifier(make, seen, **options), seen[0], held, _top

    return train


def _rescaled():
    seen, held = digits()
    model = _classifier(Separable, seen, epochs=20)
    model.rescale()
    return model, seen[0], held, _top


def _outliers():
    seen, held = digits()
    model = _classifier(Transformer, seen, epochs=20)
    model.rescale()
    return model, seen[0], held, _top


def _detector():
    seen, held = digits()
    training = [scenes(seen, seed) for seed in range(4)]
    images, labels, boxes = (np.concatenate(part) for part in zip(*training, strict=True))
    x, y, b = (torch.from_numpy(part) for part in (images, labels, boxes))
    torch.manual_seed(0)

    def loss(model, rows):
        found, wanted = model(x[rows])["detections"], nn.functional.one_hot(y[rows], 10)
        scores = nn.functional.mse_loss(found[:, 4:], wanted.float())
        return 10 * scores + nn.functional.smooth_l1_loss(found[:, :4] / 64, b[rows] / 64)

    model = fit(Detector(), x, loss, epochs=12)
    pictures, classes, _ = scenes(held, 99)
    return model, images[: len(seen[0])], (pictures, classes), lambda out: out[:, 4:].argmax(1)


def _tabular():
    seen, held = cells()
    mean, deviation = seen[0].mean(0), seen[0].std(0)
    model = _classifier(Tabular, ((seen[0] - mean) / deviation, seen[1]), epochs=30)
    model.standardise(torch.from_numpy(mean), torch.from_numpy(deviation))
    return model, seen[0], held, _top


def _embedding():
    seen, held = digits()
    x, y = torch.from_numpy(seen[0]), torch.from_numpy(seen[1])
    torch.manual_seed(0)

    def loss(model, rows):
        vectors = model(x[rows])["vector"]
        near = vectors @ vectors.T / 0.1 - 1e4 * torch.eye(len(rows))
        same = (y[rows][:, None] == y[rows]).float() - torch.eye(len(rows))
        return -(same * near.log_softmax(1)).sum() / same.sum().clamp(min=1)

    model = fit(Embedding(), x, loss, epochs=15)
    with torch.no_grad():
        known = model(x)["vector"].numpy()
    centres = np.stack([known[seen[1] == digit].mean(0) for digit in range(10)])
    return model, seen[0], held, lambda out: (out @ centres.T).argmax(1)


CASES = {
    "cnn": _simple(Cnn),
    "rescaled": _rescaled,
    "detector": _detector,
    "outliers": _outliers,
    "lstm": _simple(Lstm, epochs=40),
    "tabular": _tabular,
    "embedding": _embedding,
}
"""Functions that train a case: network, calibration rows, held-out rows and labels, classes."""


def build(name: str, folder: Path) -> Case:
    """Train a case and write pivot and samples into *folder*, which must not hold one yet."""
    import lepton_core as lepton
    from lepton_core.context import Context

    model, seen, (inputs, labels), classes = CASES[name]()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about recurrent layers
        program = torch.export.export(
            model, (torch.from_numpy(inputs[:2]),), dynamic_shapes=({0: batch},)
        )
    torch.export.save(program, path)
    work = folder / "pivot"
    work.mkdir()
    pivot = lepton.convert(
        str(path), target="onnxruntime", to_format="pivot", context=Context(work)
    ).model
    source, result = pivot.signature.inputs[0].name, pivot.signature.outputs[0].name
    np.savez(folder / "calibration.npz", **{source: seen})
    return Case(
        name, pivot, source, result, str(folder / "calibration.npz"), inputs, labels, classes
    )


__all__ = ["CASES", "Case", "build"]
