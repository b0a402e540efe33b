"""Passports of a small classifier with real digits, for the tests of passports and pages."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from lepton_core.passport import make_passport
from lepton_core.samples import Samples, match, split
from lepton_core.types import LineageStep, Model, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 64)),),
    (TensorSpec("logits", "float32", ("batch", 10)),),
)
HOSTILE = "<script>alert('x')</script>\"&]]>--><img src=x onerror=alert(1)>"


@cache
def digits():
    """Samples split into calibration and held-out rows, and the logits of a least-squares net."""
    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    wide = np.c_[x, np.ones(len(x))]
    weights = np.linalg.lstsq(wide[:900], np.eye(10)[data.target[:900]], rcond=None)[0]
    samples = match(Samples({"image": x}, data.target, "npz", "digits.npz"), SIGNATURE)
    calibration, held_out = split(samples, seed=3)
    rows = np.c_[held_out.inputs["image"], np.ones(len(held_out))]
    return calibration, held_out, (rows @ weights).astype(np.float32)


def model(name, entry=None):
    step = LineageStep(f"convert {name}", "lepton-x 0.1.0", "sha256:00", {"a": 1}, {"onnx": "1"})
    digest = "sha256:" + "ab" * 32
    return Model(name, f"/models/{name}", entry, SIGNATURE, digest, (step,))


def passport(change=lambda logits: logits, **options):
    """A passport of logits that went through *change*."""
    calibration, held_out, logits = digits()
    arguments = {
        "source": model("onnx"),
        "variant": model("onnxruntime"),
        "target": "onnxruntime",
        "precision": "fp32",
        "reference": {"logits": logits},
        "actual": {"logits": change(logits)},
        "held_out": held_out,
        "calibration": calibration,
        "split_seed": 3,
        "session_facts": {"runtime": "x", "storage_precision": "fp32"},
        "latency": {"p50_ms": 0.5, "p95_ms": 0.7, "batch": 1, "threads": 2, "runs": 100},
        "source_latency": {"p50_ms": 1.5, "p95_ms": 1.7, "batch": 1, "threads": 2, "runs": 100},
        "size_bytes": 4000,
        "source_size_bytes": 16000,
    }
    return make_passport(**{**arguments, **options})
