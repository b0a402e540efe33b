#!/usr/bin/env python3
"""Measures what static int8 costs in accuracy on handwritten digits, on every runtime here.

Five-fold cross-validation over the 1,797 digits that scikit-learn ships, so that every image is
held out once: each fold's network is trained and calibrated on the other folds alone. The loss is
the difference of accuracies, paired by image, with the interval of Agresti and Min (Statistics in
Medicine 2005, 24:729-740). Goal: at most 0.5 points. Integers, scales and zero points must be the
same in the files of both runtimes, and calibration must need no more memory for 1,000 images than
for 100 (5 % are left for noise).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _paired import interval

FOLDS = 5
TARGETS = ("onnxruntime", "openvino")
GOAL = 0.005
MEMORY = 1.05
CALIBRATION = 500
DIGITS = Path(__file__).parents[2] / "docs" / "examples" / "digits.py"


def digits_module():
    spec = importlib.util.spec_from_file_location("digits_example", DIGITS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(images, labels, seed):
    """Return the example's network, trained on these images."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = digits_module().DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(20):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows])["logits"], y[rows]).backward()
            optimizer.step()
    return model.eval()


def exported(model, path):
    """Write a network as an exported program with an open batch."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.zeros(2, 1, 8, 8),)
    program = torch.export.export(model, example, dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def answers(model, target, images, folder, recipe=None):
    """Lower a pivot, with a recipe or without, and return its classes and the artifact."""
    import lepton_core as lepton
    from lepton_core.context import Context

    folder.mkdir()
    context = Context(folder)
    built = lepton.convert(model, target=target, recipe=recipe, context=context).model
    with lepton.open(built, target=target, context=context) as session:
        outputs = session.run({session.signature.inputs[0].name: images})
    return next(iter(outputs.values())).argmax(axis=1), built


def fold_result(number, images, labels, test, folder):
    """Return, for each target, whether each held-out image is answered rightly: fp32 and int8."""
    import lepton_core as lepton
    from lepton_core.context import Context

    train = np.setdiff1d(np.arange(len(images)), test)
    path = exported(trained(images[train], labels[train], number), folder / "net.pt2")
    pivot_at = folder / "pivot"
    pivot_at.mkdir()
    pivot = lepton.convert(
        path, target="onnxruntime", to_format="pivot", context=Context(pivot_at)
    ).model
    rng = np.random.default_rng(number)
    chosen = rng.choice(train, CALIBRATION, replace=False)
    name = pivot.signature.inputs[0].name
    np.savez(folder / "calibration.npz", **{name: images[chosen]})
    work = folder / "recipe"
    work.mkdir()
    recipe = lepton.optimize(
        pivot, target="onnxruntime", samples=str(folder / "calibration.npz"),
        options={"recipe_only": True}, context=Context(work),
    ).recipe  # fmt: skip
    right, built = {}, {}
    for target in TARGETS:
        for kind, used in (("fp32", None), ("int8", recipe)):
            place = folder / f"{target}-{kind}"
            classes, built[target, kind] = answers(pivot, target, images[test], place, used)
            right[target, kind] = classes == labels[test]
    return right, same_numbers(built["onnxruntime", "int8"], built["openvino", "int8"])


def same_numbers(one, two):
    """Return how many stored numbers were compared; raises if any differs."""
    import onnx
    from onnx import numpy_helper

    from lepton_openvino._telemetry import openvino

    parts = ("/int8", "/int32", "/scale", "/zero_point")
    first = {t.name: numpy_helper.to_array(t) for t in onnx.load(one.path).graph.initializer}
    compared = 0
    for op in openvino().Core().read_model(two.path).get_ops():
        name = op.get_friendly_name()
        if op.get_type_name() == "Constant" and name.endswith(parts):
            array = np.array(op.data)
            if array.tobytes() != first[name].tobytes():
                raise SystemExit(f"{name} differs between {one.path} and {two.path}")
            compared += array.size
    if not compared:
        raise SystemExit(f"no stored number of {two.path} was found to compare")
    return compared


_MEMORY = """
import sys, tempfile
from pathlib import Path
import lepton_core as lepton
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
with tempfile.TemporaryDirectory() as work:
    lepton.hooks.use(Hooks(Registry()))  # in this process, whose memory is read
    lepton.optimize(sys.argv[1], target="onnxruntime", samples=sys.argv[2],
                    options={"recipe_only": True}, context=Context(Path(work)))
status = Path("/proc/self/status").read_text()  # ru_maxrss would show the parent's peak
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak_memory(pivot, name, images, folder):
    """Return the peak resident bytes of calibrating on 100 and on 1,000 images."""
    found = {}
    for count in (100, 1000):
        samples = folder / f"samples-{count}.npz"
        np.savez(samples, **{name: images[:count]})
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(pivot), str(samples)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[count] = int(done.stdout.split()[-1])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write JSON here")
    out = parser.parse_args().out
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    data = load_digits()
    images, labels = (data.images / 16.0).astype(np.float32)[:, None], data.target
    right = {(t, k): np.zeros(len(labels), bool) for t in TARGETS for k in ("fp32", "int8")}
    compared = 0
    with tempfile.TemporaryDirectory() as name:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, labels)
        for number, (_, test) in enumerate(folds):
            folder = Path(name) / f"fold-{number}"
            folder.mkdir()
            found, numbers = fold_result(number, images, labels, test, folder)
            compared += numbers
            for key, values in found.items():
                right[key][test] = values
            print(f"  fold {number + 1} of {FOLDS}", flush=True)
        pivot = next((folder / "pivot").glob("*.onnx"))
        memory = peak_memory(pivot, "image", np.repeat(images, 2, axis=0), Path(name))
    growth = memory[1000] / memory[100]
    report = {"images": len(labels), "numbers_compared": compared, "peak_memory": memory,
              "memory_met": growth <= MEMORY}  # fmt: skip
    for target in TARGETS:
        before, after = right[target, "fp32"], right[target, "int8"]
        loss, low, high = interval(int((before & ~after).sum()), int((~before & after).sum()),
                                   len(labels))  # fmt: skip
        met = loss <= GOAL
        report[target] = {
            "fp32": float(before.mean()), "int8": float(after.mean()), "loss": loss,
            "interval": [low, high], "changed": int((before != after).sum()), "met": bool(met),
        }  # fmt: skip
        print(
            f"  {target:12} fp32 {before.mean():.4f}  int8 {after.mean():.4f}  loss "
            f"{100 * loss:+.2f} points (95 %: {100 * low:+.2f} to {100 * high:+.2f})   "
            f"{'met' if met else 'MISSED'}"
        )
    print(f"  {compared} integers, scales and zero points read back from both files: identical")
    print(
        f"  calibration's peak memory, 1,000 images over 100: {growth:.3f}   "
        f"{'met' if report['memory_met'] else 'MISSED'}"
    )
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if holds(report) else 1


def holds(report):
    """Whether no goal is missed."""
    return report["memory_met"] and all(report[t]["met"] for t in TARGETS)


if __name__ == "__main__":
    sys.exit(main())
