"""Inputs for every factory of models.py: 64 rows each, from fixed seeds."""

import numpy as np

ROWS = 64


def _normal(*shape):
    return np.random.default_rng(8).normal(size=(ROWS, *shape)).astype(np.float32)


def _integers(high, *shape):
    return np.random.default_rng(9).integers(0, high, size=(ROWS, *shape))


SAMPLES = {
    "mlp": lambda: {"input": _normal(20)},
    "wide": lambda: {"input": _normal(64)},
    "residual": lambda: {"image": _normal(3, 32, 32)},
    "unet": lambda: {"image": _normal(1, 16, 16)},
    "encoder": lambda: {"src": _normal(6, 32)},
    "tagger": lambda: {"tokens": _integers(50, 8)},
    "two_heads": lambda: {"values": _normal(5), "kind": _integers(7)},
}
