#!/usr/bin/env python3
"""Measures what static int8 of a network in the shape of ResNet-50 costs to make, beside its peers.

The network (25.6 M parameters; He et al. 2015, arXiv 1512.03385) has random weights and the batch
statistics of its inputs: 224x224 crops of the two photographs that scikit-learn ships. Every job
runs in a fresh process, in turn, so that a change of the machine's load meets all of them. Reported
are CPU seconds (user and system, all threads, children too), from the model's file to the quantized
model, and the peak of resident memory. nncf and ONNX Runtime's tool run in the environment of the
kernels' peers (``--peers PYTHON``, made by `make bench`); without it they are left out.

Goals are reported and not enforced, because they depend on the machine: at most 1.7 times the CPU
of the bare forward passes on the fastest runtime, 1.5 times faster than nncf and 2 times than ONNX
Runtime's tool, peak memory at most 700 MB and the same for more images, percentile and entropy at
most 1.3 times minmax.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, SIDE = 100, 224
PEERS = Path(__file__).parents[2] / ".venv-bench" / "bin" / "python"
DEPTHS = ((64, 3), (128, 4), (256, 6), (512, 3))
LAYERS = 54
"""Convolutions and the last product."""


# --- the network and its data ------------------------------------------------------------------


def network():
    """Return the network with random weights."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            outputs = 4 * width
            self.body = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
            )  # fmt: skip
            self.skip = nn.Identity()
            if stride > 1 or inputs != outputs:
                skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.skip = nn.Sequential(skip, nn.BatchNorm2d(outputs))

        def forward(self, x):
            return torch.relu(self.body(x) + self.skip(x))

    torch.manual_seed(0)
    first = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    layers, inputs = [*first, nn.MaxPool2d(3, 2, 1)], 64
    for stage, (width, count) in enumerate(DEPTHS):
        for block in range(count):
            layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def crops(count):
    """Return crops of the photographs, (count, 3, 224, 224) float32 around 0."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    found = np.empty((count, 3, SIDE, SIDE), np.float32)
    for i in range(count):
        whole = photographs[i % len(photographs)]
        y, x = (int(rng.integers(0, n - SIDE)) for n in whole.shape[:2])
        found[i] = whole[y : y + SIDE, x : x + SIDE].transpose(2, 0, 1) / 127.5 - 1
    return found


def prepare(folder):
    """Write the pivot and the samples."""
    import torch

    import lepton_core as lepton
    from lepton_core.context import Context

    images, model = crops(2 * IMAGES), network()
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.from_numpy(images[:16]))
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.from_numpy(images[:2]),)
    program = torch.export.export(model.eval(), example, dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    place = folder / "pivot"
    place.mkdir()
    pivot = lepton.convert(
        folder / "net.pt2", target="onnxruntime", to_format="pivot", context=Context(place)
    ).model
    name = pivot.signature.inputs[0].name
    for count in (IMAGES, 2 * IMAGES):
        np.savez(folder / f"{count}.npz", **{name: images[:count]})
    (folder / "pivot.json").write_text(json.dumps({"path": pivot.path, "input": name}))


# --- jobs: each runs alone in a process ----------------------------------------------------------


def lepton_int8(pivot, _name, samples, folder, estimator="minmax"):
    """Static int8 by lepton: calibrate, choose, lower.

    Raises:
        AssertionError: The result computes no integers.
    """
    import lepton_core as lepton
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry

    lepton.hooks.use(Hooks(Registry()))  # in this process, whose time and memory are read
    result = lepton.optimize(
        pivot, target="onnxruntime", samples=str(samples), context=Context(folder),
        precision="int8", options={"estimator": estimator, "recover": "none"}, timing_seconds=0.0,
    )  # fmt: skip
    assert result.facts["integer_layers"] >= LAYERS, result.facts


def forward_onnxruntime(pivot, name, samples, _folder, rows):
    """Bare forward passes by ONNX Runtime; threads that wait do not spin, as in lepton's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(pivot, options, providers=["CPUExecutionProvider"])
    images = np.load(samples)[name]
    for start in range(0, len(images), rows):
        session.run(None, {name: images[start : start + rows]})


def forward_openvino(pivot, name, samples, _folder, rows):
    """Bare forward passes by OpenVINO."""
    import openvino

    # The default of some processors is bf16, which would not be the same work.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(pivot, "CPU", config)
    images = np.load(samples)[name]
    for start in range(0, len(images), rows):
        compiled({name: images[start : start + rows]})


def onnxruntime_tool(pivot, name, samples, folder):
    """Static int8 by ONNX Runtime's tool, whose threads spin while they wait; that is its own."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter(np.load(samples)[name])

        def get_next(self):
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    quantize_static(pivot, str(folder / "int8.onnx"), Reader(), per_channel=True)


def nncf_int8(pivot, name, samples, folder):
    """Static int8 by nncf on OpenVINO, without the correction of biases."""
    import nncf
    import openvino

    images = np.load(samples)[name]
    data = nncf.Dataset([row[None] for row in images])
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    quantized = nncf.quantize(
        openvino.Core().read_model(pivot), data, subset_size=len(images),
        advanced_parameters=advanced,
    )  # fmt: skip
    openvino.save_model(quantized, str(folder / "int8.xml"))


OURS = {
    "lepton": lepton_int8,
    "lepton, twice the images": lepton_int8,
    "lepton, percentile": lambda *a: lepton_int8(*a, "percentile"),
    "lepton, entropy": lambda *a: lepton_int8(*a, "entropy"),
    "forward, onnxruntime, 1 row": lambda *a: forward_onnxruntime(*a, 1),
    "forward, onnxruntime, 8 rows": lambda *a: forward_onnxruntime(*a, 8),
    "forward, openvino, 1 row": lambda *a: forward_openvino(*a, 1),
    "forward, openvino, 8 rows": lambda *a: forward_openvino(*a, 8),
}
THEIRS = {"onnxruntime's tool": onnxruntime_tool, "nncf": nncf_int8}


def run_job(name, folder):
    """Run one job here and print what it took."""
    facts = json.loads((folder / "pivot.json").read_text())
    count = 2 * IMAGES if "twice" in name else IMAGES
    before, began = _cpu(), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        job = (OURS | THEIRS)[name]
        job(facts["path"], facts["input"], folder / f"{count}.npz", Path(work))
    status = Path("/proc/self/status").read_text()  # ru_maxrss would show the parent's peak
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    took = {"cpu_s": _cpu() - before, "wall_s": time.perf_counter() - began, "peak_mb": peak}
    print(json.dumps(took))


def _cpu():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


# --- the run -----------------------------------------------------------------------------------


def measure(folder, rounds, peers):
    """Return, for each job, what every round took."""
    jobs = dict.fromkeys(OURS, sys.executable) | (dict.fromkeys(THEIRS, peers) if peers else {})
    found = {name: [] for name in jobs}
    for number in range(rounds):
        for name, python in jobs.items():
            command = [python, __file__, "--job", name, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"  round {number + 1} of {rounds}", flush=True)
    return found


def judge(found):
    """Return every goal with what was measured."""
    cpu = {name: min(run["cpu_s"] for run in runs) for name, runs in found.items()}
    peak = {name: max(run["peak_mb"] for run in runs) for name, runs in found.items()}
    bare = min(seconds for name, seconds in cpu.items() if name.startswith("forward"))
    goals = [
        ("CPU over that of the bare forward passes", cpu["lepton"] / bare, 1.7),
        ("percentile over minmax", cpu["lepton, percentile"] / cpu["lepton"], 1.3),
        ("entropy over minmax", cpu["lepton, entropy"] / cpu["lepton"], 1.3),
        ("peak memory, MB", peak["lepton"], 700),
        ("peak memory, 200 images over 100",
         peak["lepton, twice the images"] / peak["lepton"], 1.05),
    ]  # fmt: skip
    if "nncf" in cpu:
        goals.append(("CPU over that of nncf", cpu["lepton"] / cpu["nncf"], 1 / 1.5))
        tool = cpu["onnxruntime's tool"]
        goals.append(("CPU over that of onnxruntime's tool", cpu["lepton"] / tool, 1 / 2))
    return [
        {"goal": text, "at_most": limit, "measured": value, "met": value <= limit}
        for text, value, limit in goals
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS if PEERS.exists() else None)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        return run_job(given.job, given.folder)
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        found = measure(Path(name), given.rounds, given.peers)
    for job, runs in found.items():
        middle = statistics.median(run["cpu_s"] for run in runs)
        print(
            f"  {job:28} CPU {min(run['cpu_s'] for run in runs):6.1f} s (median {middle:6.1f})  "
            f"wall {min(run['wall_s'] for run in runs):6.1f} s  "
            f"peak {max(run['peak_mb'] for run in runs):6.0f} MB"
        )
    goals = judge(found)
    for goal in goals:
        verdict = "met" if goal["met"] else "MISSED"
        print(
            f"  {goal['goal']}: {goal['measured']:.2f} (at most {goal['at_most']:.2f})  {verdict}"
        )
    if given.out:
        given.out.write_text(json.dumps({"jobs": found, "goals": goals}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
