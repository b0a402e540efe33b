"""Small networks of the kinds that people port, with inputs; for the long run."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.a = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
        )
        self.down = nn.Conv2d(c, 2 * c, 1, stride=2)
        self.b = nn.Sequential(
            nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU()
        )
        self.head = nn.Linear(2 * c, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.a(x))
        x = self.b(x) + self.down(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()

        def dw(i, o, st):
            return nn.Sequential(
                nn.Conv2d(i, i, 3, st, 1, groups=i, bias=False),
                nn.BatchNorm2d(i),
                nn.ReLU6(),
                nn.Conv2d(i, o, 1, bias=False),
                nn.BatchNorm2d(o),
                nn.Hardswish(),
            )

        self.f = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.Hardswish(),
            dw(16, 24, 2),
            dw(24, 32, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def forward(self, x):
        return self.f(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def blk(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.SiLU())

        self.a, self.b, self.c = blk(3, 8), blk(8, 16), blk(16, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.d = blk(32, 8)
        self.e = blk(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(nn.functional.max_pool2d(a, 2))
        c = self.c(nn.functional.avg_pool2d(b, 2))
        d = self.d(torch.cat([self.up(c), b], 1))
        d = nn.functional.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(self.e(torch.cat([d, a], 1)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
        self.h = nn.Linear(32, 3)

    def forward(self, x):
        return self.h(self.l(x)[0][:, -1])


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 32, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.pos = nn.Parameter(torch.randn(1, 17, 32))
        self.t = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                32, 4, 64, batch_first=True, activation="gelu", norm_first=True
            ),
            2,
            enable_nested_tensor=False,
        )
        self.h = nn.Linear(32, 10)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.h(self.t(x)[:, 0])


class TextTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel

        self.m = BertModel(
            BertConfig(
                vocab_size=120,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=32,
            ),
            add_pooling_layer=False,
        )
        self.h = nn.Linear(32, 4)

    def forward(self, input_ids, attention_mask):
        return self.h(
            self.m(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        )


def images(rows, size):
    return {"image": np.random.default_rng(0).normal(size=(rows, 3, size, size)).astype("f4")}


def series():
    return {"x": np.random.default_rng(0).normal(size=(4, 6, 8)).astype("f4")}


def perceptron():
    layers = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 4)]
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("f4")
    return nn.Sequential(*layers), {"x": x}


def convolutional():
    first = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Dropout(0.1), nn.Linear(32, 10)), images(4, 16)


def text():
    rng = np.random.default_rng(0)
    mask = np.ones((4, 12), "i8")
    mask[1, 7:] = 0
    return TextTransformer(), {"input_ids": rng.integers(1, 119, (4, 12)), "attention_mask": mask}


NETWORKS = {
    "mlp": perceptron,
    "cnn": convolutional,
    "resnet": lambda: (Residual(), images(4, 32)),
    "mobilenet": lambda: (MobileNet(), images(4, 32)),
    "unet": lambda: (UNet(), images(4, 16)),
    "lstm": lambda: (Recurrent(), series()),
    "vit": lambda: (VisionTransformer(), images(4, 16)),
    "bert": text,
}
