#!/usr/bin/env python3
"""Measures what a mean costs as a product: depthwise convolution in place of AveragePool, int8.

Two convolutions with a mean between them are calibrated both ways and lowered to each runtime,
which runs them in turns, one row a call, on one thread. Printed are the times and the interval of
their ratio; the page docs/reference/same-integers.md has the numbers of one run. The last case is
what bilinear interpolation to twice the size would cost as a product (edges repeated, depthwise
convolutions to four channels for each, DepthToSpace), which lepton does not offer.
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
    "bilinear, 32x28x28 to 32x56x56": (32, 28, 0),
}
TARGETS = ("onnxruntime", "openvino", "tflite")


def network(channels, between):
    """Return two convolutions with a function between them."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(channels, channels, 1)
            self.two = nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return {"y": self.two(between(self.one(x).relu())).flatten(1)}

    return Net().eval()


def forms(channels, window):
    """Return what both forms of a case have between the convolutions, and their option."""
    import torch
    from torch.nn import functional

    def pooled(x):
        return functional.avg_pool2d(x, window)

    if window:
        return (pooled, "pool"), (pooled, "product")
    sides = (0.25, 0.75, 0.0), (0.0, 0.75, 0.25)
    kernels = [torch.outer(torch.tensor(a), torch.tensor(b)) for a in sides for b in sides]
    weight = torch.stack(kernels)[:, None].repeat(channels, 1, 1, 1) * (1 - 2.0**-12)

    def product(x):
        for axis in (3, 2):
            size = x.shape[axis]
            ends = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
            x = torch.cat((ends[0], x, ends[1]), axis)
        return functional.pixel_shuffle(functional.conv2d(x, weight, groups=channels), 2)

    def interpolated(x):
        return functional.interpolate(x, scale_factor=2, mode="bilinear")

    return (interpolated, "pool"), (product, "pool")


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
    pivots = []
    for number, (between, means) in enumerate(forms(channels, window)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = network(channels, between)
            program = torch.export.export(net, (torch.from_numpy(rows[:1]),))
        torch.export.save(program, folder / f"net-{number}.pt2")
        source = resolve(str(folder / f"net-{number}.pt2"), hooks.registry)
        read = hooks.inspect(source, InspectRequest(operators=False), place()).model
        asked = ConvertRequest("onnxruntime", to_format="pivot")
        pivots.append((hooks.convert(read, asked, place()).model, means))
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
            for pivot, means in pivots
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
