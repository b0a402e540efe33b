"""Networks of the kinds that people port, for measurements of whole models; weights are random.

Each function returns a module, its example inputs (batch 1) by name, and a function that draws rows
of inputs. Parameters are 0.2 to 5 million: enough that what is measured is the work, and few enough
that all of them are converted in minutes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

F = nn.functional


def _normal(name, *shape):
    def draw(rows, seed=0):
        smooth = np.random.default_rng(seed).normal(size=(rows, *shape)).cumsum(-1)
        return {name: (smooth / np.sqrt(shape[-1])).astype(np.float32)}

    return draw


def _finished(net, draw):
    """Return a network whose batch-norms have the statistics of its inputs."""
    net.train()
    with torch.no_grad():
        for seed in range(4):
            net(*(torch.from_numpy(a) for a in draw(8, seed=seed + 100).values()))
    return net.eval(), {n: torch.from_numpy(a) for n, a in draw(1).items()}, draw


def _conv(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class _Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.one = _conv(inputs, outputs, 3, stride)
        self.two = _conv(outputs, outputs, 3, act=None)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else _conv(inputs, outputs, 1, stride, act=None)

    def forward(self, x):
        return torch.relu(self.two(self.one(x)) + self.skip(x))


class _Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, grow=4):
        super().__init__()
        wide = inputs * grow
        self.body = nn.Sequential(
            _conv(inputs, wide, 1, act=nn.ReLU6),
            _conv(wide, wide, 3, stride, groups=wide, act=nn.ReLU6),
            _conv(wide, outputs, 1, act=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class _Image(nn.Module):
    """A body and a classifier behind the mean over all places."""

    def __init__(self, *body, width):
        super().__init__()
        self.body, self.head = nn.Sequential(*body), nn.Linear(width, 100)

    def forward(self, image):
        return {"logits": self.head(F.adaptive_avg_pool2d(self.body(image), 1).flatten(1))}


def mlp():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(),
                nn.Linear(1024, 100),
            )  # fmt: skip

        def forward(self, values):
            return {"logits": self.body(values)}

    return _finished(Mlp(), _normal("values", 256))


def cnn():
    stages = [_conv(3, 32), _conv(32, 32), nn.MaxPool2d(2), _conv(32, 64), _conv(64, 64),
              nn.MaxPool2d(2), _conv(64, 128), _conv(128, 128), nn.MaxPool2d(2)]  # fmt: skip
    return _finished(_Image(*stages, width=128), _normal("image", 3, 64, 64))


def resnet():
    body = [_conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 32
    for width, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        body += [_Residual(inputs, width, stride), _Residual(width, width, 1)]
        inputs = width
    return _finished(_Image(*body, width=256), _normal("image", 3, 128, 128))


def mobilenet():
    body = [_conv(3, 24, 3, 2, act=nn.ReLU6)]
    inputs = 24
    for width, stride in ((24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 2), (96, 1)):
        body.append(_Inverted(inputs, width, stride))
        inputs = width
    body.append(_conv(96, 384, 1, act=nn.ReLU6))
    return _finished(_Image(*body, width=384), _normal("image", 3, 128, 128))


class _Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = _conv(3, 24), _conv(24, 48)
        self.deep = nn.Sequential(_conv(48, 96), _conv(96, 96))
        self.up = nn.ConvTranspose2d(96, 48, 2, 2)
        self.join, self.last = _conv(96, 48), _conv(72, 24)
        self.out = nn.Conv2d(24, 2, 1)

    def forward(self, image):
        one = self.one(image)
        two = self.two(F.max_pool2d(one, 2))
        x = self.up(self.deep(F.max_pool2d(two, 2)))
        x = self.join(torch.cat([x, two], 1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return {"mask": self.out(self.last(torch.cat([x, one], 1)))}


def unet():
    return _finished(_Unet(), _normal("image", 3, 64, 64))


def _encoder(width, layers):
    layer = nn.TransformerEncoderLayer(
        width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class _Bert(nn.Module):
    def __init__(self, length=64, width=256, layers=4):
        super().__init__()
        self.words, self.places = nn.Embedding(4000, width), nn.Embedding(length, width)
        self.register_buffer("order", torch.arange(length))
        self.body, self.head = _encoder(width, layers), nn.Linear(width, 16)

    def forward(self, tokens):
        x = self.body(self.words(tokens) + self.places(self.order))
        return {"logits": self.head(x[:, 0])}


def bert():
    def draw(rows, seed=0):
        return {"tokens": np.random.default_rng(seed).integers(0, 4000, size=(rows, 64))}

    return _finished(_Bert(), draw)


class _Vit(nn.Module):
    def __init__(self, width=192, layers=4):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.places = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.body, self.head = _encoder(width, layers), nn.Linear(width, 100)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2) + self.places
        return {"logits": self.head(self.body(x).mean(1))}


def vit():
    return _finished(_Vit(), _normal("image", 3, 64, 64))


class _Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(32, 128, 2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, series):
        return {"logits": self.head(self.body(series)[0][:, -1])}


def lstm():
    return _finished(_Lstm(), _normal("series", 24, 32))


NETWORKS = {
    "CNN": cnn, "ResNet-like": resnet, "MobileNet-like": mobilenet, "U-Net": unet,
    "BERT-like": bert, "ViT-like": vit, "LSTM": lstm, "MLP": mlp,
}  # fmt: skip


def made(name):
    """Return a network by its name in :data:`NETWORKS`; the same every time."""
    torch.manual_seed(0)
    return NETWORKS[name]()


def exported(name, path, *, batch=False):
    """Write a network as ``.pt2``; the batch is symbolic if asked for."""
    net, inputs, _ = made(name)
    if batch:
        inputs = {n: torch.cat([a, a]) for n, a in inputs.items()}
    shapes = {n: {0: torch.export.Dim("n")} for n in inputs} if batch else None
    program = torch.export.export(net, tuple(inputs.values()), dynamic_shapes=shapes)
    torch.export.save(program, path)
