#!/usr/bin/env python3
"""Measures what int4 weights cost a small transformer on digits, on every runtime here.

Three-fold cross-validation over the 1,797 digits that scikit-learn ships, read as sequences of
eight rows, so that every image is held out once: each fold's network is trained and calibrated on
the other folds alone. The loss is the difference of accuracies, paired by image, with the interval
of Agresti and Min (Statistics in Medicine 2005, 24:729-740). Goals: at most 1 point by GPTQ;
relative errors of the outputs on held-out rows fall from rounding to nearest over least squared
error to GPTQ; matrices at least 4 times smaller in both files, with the same integers. Peak memory
of calibration is compared for 100 and 1,000 images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _paired import interval

FOLDS, WIDTH, CALIBRATION = 3, 128, 500
TARGETS = ("onnxruntime", "openvino")
ABOVE = ", scales above 0"
METHODS = {
    **{name: {"method": name} for name in ("rtn", "mse", "awq", "gptq")},
    **{f"{name}{ABOVE}": {"method": name, "scales": "float16"} for name in ("mse", "gptq")},
}
"""Ways to round; scales above 0 that float16 holds are what LiteRT's kernels of 4 bits want."""
GOAL = 0.01


def network():
    import torch
    from torch import nn

    class Rows(nn.Module):
        """Two encoder layers over the rows of an image."""

        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True, norm_first=True
            )
            self.embed = nn.Linear(8, WIDTH)
            self.place = nn.Parameter(torch.zeros(8, WIDTH))
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(WIDTH, 10)

        def forward(self, image):
            rows = self.embed(image[:, 0]) + self.place
            return {"logits": self.head(self.body(rows).mean(1))}

    return Rows()


def trained(images, labels, seed):
    """Return the network, trained on these images."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(25):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows])["logits"], y[rows]).backward()
            optimizer.step()
    return model.eval()


def exported(model, folder):
    """Return the pivot of a network."""
    import torch

    import lepton_core as lepton
    from lepton_core.context import Context

    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)
        )
    torch.export.save(program, folder / "net.pt2")
    place = folder / "pivot"
    place.mkdir()
    return lepton.convert(
        folder / "net.pt2", target="onnxruntime", to_format="pivot", context=Context(place)
    ).model


def outputs(model, target, images, folder, recipe=None):
    """Lower a pivot, with a recipe or without; return its outputs and the artifact."""
    import lepton_core as lepton
    from lepton_core.context import Context

    folder.mkdir()
    context = Context(folder)
    built = lepton.convert(model, target=target, recipe=recipe, context=context).model
    with lepton.open(built, target=target, context=context) as session:
        return session.run({"image": images})["logits"], built


def recipe_of(pivot, samples, method, folder):
    import lepton_core as lepton
    from lepton_core.context import Context

    folder.mkdir()
    return lepton.optimize(
        pivot, target="onnxruntime", precision="int4", samples=samples,
        options={"recipe_only": True, **METHODS[method]}, context=Context(folder),
    ).recipe  # fmt: skip


def compared(pivot, recipe, one, two):
    """Return integers compared in both files, and the bytes of matrices before and after."""
    from lepton_core import recipe as recipes
    from lepton_onnx import pivot as pivots
    from lepton_onnx import qdq
    from lepton_openvino._telemetry import openvino

    read = recipes.read(recipe)
    stored = qdq.read_blocks(pivots.load(one.path))
    constants = {
        op.get_friendly_name(): op
        for op in openvino().Core().read_model(two.path).get_ops()
        if op.get_type_name() == "Constant"
    }
    count = before = after = 0
    model = pivots.load(one.path)
    packed = {t.name: t.raw_data for t in model.graph.initializer}
    for name in read.blocks:
        key = f"{name}/uint4"
        theirs = np.array(constants[key].data, np.uint8).ravel()
        ours = np.frombuffer(packed[key], np.uint8)
        if len(theirs) != len(ours):  # one integer a byte
            ours = np.stack([ours & 15, ours >> 4], axis=-1).ravel()
        scales = np.array(constants[f"{name}/scale"].data).ravel()
        if not np.array_equal(theirs, ours) or not np.array_equal(
            scales, stored[name].scale.ravel()
        ):
            raise SystemExit(f"{name} differs between {one.path} and {two.path}")
        count += stored[name].codes.size + scales.size
        before += 4 * stored[name].codes.size
        after += sum(len(data) for n, data in packed.items() if n.rpartition("/")[0] == name)
    return count, before, after


def fold_result(number, images, labels, test, folder):
    """Return right answers and relative errors by target and method, and what files hold."""
    train = np.setdiff1d(np.arange(len(images)), test)
    pivot = exported(trained(images[train], labels[train], number), folder)
    chosen = np.random.default_rng(number).choice(train, CALIBRATION, replace=False)
    samples = folder / "calibration.npz"
    np.savez(samples, image=images[chosen])
    right, errors, facts = {}, {}, None
    for target in TARGETS:
        plain, _ = outputs(pivot, target, images[test], folder / f"{target}-fp32")
        right[target, "fp32"] = plain.argmax(1) == labels[test]
        errors[target] = {"fp32": plain}
    for method in METHODS:
        recipe = recipe_of(pivot, str(samples), method, folder / f"recipe-{method}")
        built = {}
        for target in TARGETS:
            found, built[target] = outputs(
                pivot, target, images[test], folder / f"{target}-{method}", recipe
            )
            right[target, method] = found.argmax(1) == labels[test]
            plain = errors[target]["fp32"]
            errors[target][method] = float(np.linalg.norm(found - plain) / np.linalg.norm(plain))
        facts = compared(pivot, recipe, built["onnxruntime"], built["openvino"])
    for target in TARGETS:
        del errors[target]["fp32"]
    return right, errors, facts


_MEMORY = """
import sys, tempfile
from pathlib import Path
import lepton_core as lepton
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
with tempfile.TemporaryDirectory() as work:
    lepton.hooks.use(Hooks(Registry()))  # in this process, whose memory is read
    lepton.optimize(sys.argv[1], target="onnxruntime", samples=sys.argv[2], precision="int4",
                    options={"recipe_only": True, "threads": 1}, context=Context(Path(work)))
status = Path("/proc/self/status").read_text()  # ru_maxrss counts the parent before exec
print(1024 * int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)))
"""


def peak_memory(pivot, images, folder):
    """Return the peak resident bytes of rounding by GPTQ on 100 and on 1,000 images."""
    found = {}
    for count in (100, 1000):
        samples = folder / f"samples-{count}.npz"
        np.savez(samples, image=images[:count])
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(pivot), str(samples)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[count] = int(done.stdout.split()[-1])
    return found


def run(folder):
    """Return everything measured, over all folds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    data = load_digits()
    images, labels = (data.images / 16.0).astype(np.float32)[:, None], data.target
    kinds = [(t, m) for t in TARGETS for m in ("fp32", *METHODS)]
    right = {key: np.zeros(len(labels), bool) for key in kinds}
    errors, facts = [], []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, labels)
    for number, (_, test) in enumerate(folds):
        place = folder / f"fold-{number}"
        place.mkdir()
        found, error, numbers = fold_result(number, images, labels, test, place)
        for key, values in found.items():
            right[key][test] = values
        errors.append(error)
        facts.append(numbers)
        print(f"  fold {number + 1} of {FOLDS}", flush=True)
    memory = peak_memory(next((place / "pivot").glob("*.onnx")), images, folder)
    return right, errors, facts, memory


def report_of(right, errors, facts, memory):
    """Print what was measured; return it with whether the goals were met."""
    n = len(right[TARGETS[0], "fp32"])
    ratio = sum(f[1] for f in facts) / sum(f[2] for f in facts)
    report = {
        "images": n, "numbers_compared": sum(f[0] for f in facts), "matrices_smaller": ratio,
        "peak_memory": memory, "met": ratio >= 4,
    }  # fmt: skip
    for target in TARGETS:
        before, rows = right[target, "fp32"], {}
        for method in METHODS:
            after = right[target, method]
            loss, low, high = interval(
                int((before & ~after).sum()), int((~before & after).sum()), n
            )
            error = float(np.mean([e[target][method] for e in errors]))
            rows[method] = {"accuracy": float(after.mean()), "loss": loss, "interval": [low, high],
                            "relative_error": error}  # fmt: skip
            print(
                f"  {target:12} {method:20} fp32 {before.mean():.4f}  int4 {after.mean():.4f}  "
                f"loss {100 * loss:+.2f} points (95 %: {100 * low:+.2f} to {100 * high:+.2f})  "
                f"relative error {error:.4f}"
            )
        falling = [rows[m]["relative_error"] for m in ("rtn", "mse", "gptq")]
        met = rows["gptq"]["loss"] <= GOAL and falling == sorted(falling, reverse=True)
        report[target] = rows | {"met": met}
        report["met"] = report["met"] and met
    print(
        f"  {report['numbers_compared']} integers and scales read back from both files: identical"
    )
    print(f"  matrices {ratio:.2f} times smaller, scales included")
    print(f"  peak memory of GPTQ, 1,000 images over 100: {memory[1000] / memory[100]:.3f}")
    print("  goals " + ("met" if report["met"] else "MISSED"))
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write JSON here")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        report = report_of(*run(Path(name)))
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
