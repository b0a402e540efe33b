"""Small modules of the kinds that people port, each with the inputs that make it sensitive.

Factories for ``file.py:name``; weights are random but fixed, because numbers must agree for any.
"""

from __future__ import annotations

import torch
from torch import nn


def _fixed(module: nn.Module, **inputs: torch.Tensor):
    return module.eval(), inputs


class Residual(nn.Module):
    """Depthwise-separable block with a residual, as in mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.norm(self.stem(image)))
        x = x + nn.functional.hardswish(self.point(self.depth(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """Down, up by transposed convolution and interpolation, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.out = nn.Conv2d(9, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.up(nn.functional.silu(self.group(self.down(image))))
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        wide = nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.out(torch.cat([x, wide], 1)))


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM, one score per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


class TwoHeads(nn.Module):
    """Two inputs of different dtypes and two outputs of different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.Linear(9, 16)
        self.box = nn.Linear(16, 4)
        self.score = nn.Linear(16, 3)

    def forward(self, values: torch.Tensor, kind: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.tanh(self.body(torch.cat([values, self.embed(kind)], 1)))
        return {"box": self.box(x) * 300.0, "score": self.score(x).softmax(-1)}


def mlp():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    return _fixed(net, input=torch.zeros(2, 20))


def wide():
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 32)
    )
    return _fixed(net, input=torch.zeros(2, 64))


def residual():
    torch.manual_seed(2)
    return _fixed(Residual(), image=torch.zeros(2, 3, 32, 32))


def unet():
    torch.manual_seed(3)
    return _fixed(UNet(), image=torch.zeros(2, 1, 16, 16))


def encoder():
    torch.manual_seed(4)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return _fixed(net, src=torch.zeros(2, 6, 32))


def tagger():
    torch.manual_seed(5)
    return _fixed(Tagger(), tokens=torch.zeros(2, 8, dtype=torch.int64))


def two_heads():
    torch.manual_seed(6)
    inputs = {"values": torch.zeros(2, 5), "kind": torch.zeros(2, dtype=torch.int64)}
    return _fixed(TwoHeads(), **inputs)
