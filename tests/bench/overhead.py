#!/usr/bin/env python3
"""Measures what a conversion costs beside calling the converter by hand.

Whole networks (:mod:`_whole_networks`, batch 1) are converted by `lepton convert` and by a script
of a few lines that calls litert-torch, coremltools or OpenVINO. Every job runs in a fresh process,
in turn, with one thread. Reported are CPU seconds (user and system, workers too) and the peak of
resident memory of the largest process. Two ways are compared:

* *step*: from the pivot, or for the script from the torch module: the target's own conversion;
* *whole*: from the exported program that both start from. Lepton writes the pivot on the way.

With ``--port``, one `lepton port` to all four runtimes, which opens, runs and proves every result
(but times none, which is no part of a conversion), is held against the four scripts together, from
the exported program as well.

The goal is at most 15 % more CPU; it is reported and not enforced.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

GOAL = 1.15
ROWS = 64
"""Rows that a port proves its results on."""

LITERT = """
import sys, torch, litert_torch
program = torch.export.load(sys.argv[1])
module = program.module()
made = litert_torch.convert(module, tuple(program.example_inputs[0]), program.example_inputs[1])
made.export(sys.argv[2] + "/model.tflite")
"""

COREML = """
import sys, torch, coremltools as ct
program = torch.export.load(sys.argv[1]).run_decompositions({})
made = ct.convert(program, minimum_deployment_target=ct.target.iOS18,
                  compute_precision=ct.precision.FLOAT32)
made.save(sys.argv[2] + "/model.mlpackage")
"""

OPENVINO = """
import sys, openvino
made = openvino.convert_model(sys.argv[1])
openvino.save_model(made, sys.argv[2] + "/model.xml", compress_to_fp16=False)
"""

ONNX = """
import sys, torch
program = torch.export.load(sys.argv[1])
torch.onnx.export(program, external_data=False).save(sys.argv[2] + "/model.onnx")
"""

OPENVINO_FROM_TORCH = """
import sys, openvino, torch
made = openvino.convert_model(torch.export.load(sys.argv[1]))
openvino.save_model(made, sys.argv[2] + "/model.xml", compress_to_fp16=False)
"""

TOGETHER = {
    "onnxruntime": ONNX, "openvino": OPENVINO_FROM_TORCH, "tflite": LITERT, "coreml": COREML,
}  # fmt: skip
"""By target: the script that makes its file from an exported program."""

BY_HAND = {"tflite": (LITERT, ".pt2"), "coreml": (COREML, ".pt2"), "openvino": (OPENVINO, ".onnx")}
"""By target: the script, and what it starts from."""


def timed(command):
    """Run a command; return its CPU seconds and peak memory in MB.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    code = f"""
import json, resource, subprocess, sys
subprocess.run({[str(part) for part in command]!r}, check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n"}
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True
    )
    return json.loads(ran.stdout.splitlines()[-1])


def by_lepton(source, target, out):
    return [sys.executable, "-m", "lepton_core.cli", "convert", source, "--to", target,
            "--out", out]  # fmt: skip


def measured(name, targets, rounds, folder):
    """Return CPU seconds and peaks by target and way, of one network."""
    from _whole_networks import exported

    program, pivot = folder / "net.pt2", folder / "pivot"
    exported(name, program)
    subprocess.run(
        [*by_lepton(program, "onnxruntime", pivot)], check=True, stdout=subprocess.DEVNULL
    )
    graph = next(pivot.glob("*.onnx"))
    found = {}
    for target in targets:
        script, suffix = BY_HAND[target]
        start = graph if suffix == ".onnx" else program
        ways = {
            "by hand": lambda out, s=script, p=start: [sys.executable, "-c", s, p, out],
            "step": lambda out, t=target: by_lepton(graph, t, out),
            "whole": lambda out, t=target: by_lepton(program, t, out),
        }
        runs = {way: [] for way in ways}
        for number in range(rounds):
            for way, command in ways.items():
                out = folder / f"{target}-{way.replace(' ', '-')}-{number}"
                if way == "by hand":
                    out.mkdir()
                runs[way].append(timed(command(out)))
        found[target] = {
            way: {"cpu": statistics.median(c for c, _ in ones), "mb": max(m for _, m in ones)}
            for way, ones in runs.items()
        }
        print(name, target, found[target], flush=True)
    return found


def ported(name, rounds, folder):
    """Return CPU seconds and peaks of one port to all targets, and of the scripts together."""
    import numpy as np
    from _whole_networks import exported, made

    program, samples = folder / "net.pt2", folder / "samples.npz"
    exported(name, program)
    np.savez(samples, **made(name)[2](ROWS))
    ports, scripts = [], {target: [] for target in TOGETHER}
    for number in range(rounds):
        out = folder / f"port-{number}"
        command = [sys.executable, "-m", "lepton_core.cli", "port", program, "--data", samples,
                   "--to", ",".join(TOGETHER), "--timing", "0", "--out", out]  # fmt: skip
        ports.append(timed(command))
        for target, script in TOGETHER.items():
            out = folder / f"{target}-{number}"
            out.mkdir()
            scripts[target].append(timed([sys.executable, "-c", script, program, out]))
    found = {
        way: {"cpu": statistics.median(c for c, _ in ones), "mb": max(m for _, m in ones)}
        for way, ones in ({"port": ports} | scripts).items()
    }
    together = sum(found[target]["cpu"] for target in TOGETHER)
    found["ratio"] = found["port"]["cpu"] / together
    print(name, found, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--networks", default="BERT-like,ViT-like,CNN")
    parser.add_argument("--targets", default=",".join(BY_HAND))
    parser.add_argument("--port", action="store_true", help="one port to all beside all scripts")
    given = parser.parse_args()
    results = {}
    if given.port:
        for name in given.networks.split(","):
            with tempfile.TemporaryDirectory() as folder:
                results[name] = ported(name, given.rounds, Path(folder))
        if given.out:
            given.out.write_text(json.dumps({"port": results}, indent=1) + "\n")
        return
    for name in given.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measured(name, given.targets.split(","), given.rounds, Path(folder))
    held = [
        found["step"]["cpu"] <= GOAL * found["by hand"]["cpu"]
        for targets in results.values()
        for found in targets.values()
    ]
    print(f"{sum(held)} of {len(held)} steps cost at most {GOAL - 1:.0%} more than by hand")
    if given.out:
        given.out.write_text(json.dumps({"results": results, "held": held}, indent=1) + "\n")


if __name__ == "__main__":
    main()
