#!/usr/bin/env python3
"""Measures what a mean costs as a product: depthwise convolution in place of AveragePool, int8.

Two convolutions with a mean between them are calibrated both ways and lowered to each runtime,
which runs them in turns, one row a call, on one thread. Printed are the times and the interval of
their ratio; the page docs/reference/same-integers.md has the numbers of one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

CASES = {
    "2x2 of 32x56x56": (32, 56, 2),
    "3x3 of 64x30x30": (64, 30, 3),
    "7x7 of 256x7x7": (256, 7, 7),
}
TARGETS = ("onnxruntime", "openvino", "tflite")


def network(channels, window):
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(channels, channels, 1)
            self.two = nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            x = nn.functional.avg_pool2d(self.one(x).relu(), window)
            return {"y": self.two(x).flatten(1)}

    return Net().eval()


def measured(case, folder, hooks):
    import torch

    from lepton_core.context import Context
    from lepton_core.sources import resolve
    from lepton_core.timing import race
    from lepton_core.types import ConvertRequest, InspectRequest, OpenRequest, OptimizeRequest

    numbers = iter(range(100))

    def place():
        path = folder / str(next(numbers))
        path.mkdir()
        return Context(path, hooks=hooks)

    channels, side, window = CASES[case]
    rows = np.random.default_rng(0).normal(size=(16, channels, side, side)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network(channels, window), (torch.from_numpy(rows[:1]),))
    torch.export.save(program, folder / "net.pt2")
    source = resolve(str(folder / "net.pt2"), hooks.registry)
    read = hooks.inspect(source, InspectRequest(operators=False), place()).model
    pivot = hooks.convert(read, ConvertRequest("onnxruntime", to_format="pivot"), place()).model
    found = {}
    for target in TARGETS:
        pair = [
            hooks.optimize(
                pivot,
                OptimizeRequest(
                    target, samples=str(folder / "rows.npz"),
                    options={"recover": "none", "means": means},
                ),
                place(),
            ).model
            for means in ("pool", "product")
        ]  # fmt: skip
        one, two = (hooks.open(m, OpenRequest(target, threads=1), place()) for m in pair)
        with one, two:
            name = one.signature.inputs[0].name
            found[target] = race((one, two), [{name: rows[i : i + 1]} for i in range(4)])
        print(case, target, found[target], flush=True)
    return found


def main():
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry
    from lepton_core.workers import WorkerPool

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {}
    with WorkerPool() as pool:
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                results[case] = measured(case, Path(folder), Hooks(Registry(), pool))
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
