#!/usr/bin/env python3
"""Measures what static int8 loses on networks it is hard for, and what comes back without labels.

Each case of `_standing_cases.py` is trained on one half of its data and answers the other half,
whose rows and labels the engine never sees: as float32, as static int8 as it is, and after
automatic recovery (``max_drop=0.005``, calibration rows without labels). Losses are differences of
accuracies, paired by row, with the interval of Agresti and Min (Statistics in Medicine 2005,
24:729-740). Goals: where int8 as it is loses 20 points or more, recovery leaves at most 0.5; the
plain CNN and the transformer lose at most 0.3, whatever int8 as it is loses. The case with rescaled
channels must lose 20 points as it is: where it does not, there is nothing to recover, and the run
fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from _paired import interval
from _standing_cases import CASES, build

COLLAPSE, LEFT, SMALL = 0.20, 0.005, 0.003
BUDGET = 0.005


class Folders:
    """Fresh contexts, each in a directory of its own."""

    def __init__(self, root):
        self.root, self.count = root, 0

    def __call__(self):
        from lepton_core.context import Context

        self.count += 1
        folder = self.root / f"work-{self.count:03d}"
        folder.mkdir()
        return Context(folder)


def answers(case, model, target, fresh):
    """Return whether each held-out row gets the right class."""
    import lepton_core as lepton

    with lepton.open(model, target=target, context=fresh()) as session:
        outputs = session.run({case.input: case.inputs})
    return case.classes(outputs[case.output]) == case.labels


def measure(name, target, root):
    import lepton_core as lepton
    from lepton_core.errors import OptimizeError

    fresh = Folders(root)
    case = build(name, root / "case")
    right = {"fp32": answers(case, lepton_float(case, target, fresh), target, fresh)}
    asked = {"target": target, "samples": case.calibration}
    plain = lepton.optimize(case.pivot, **asked, context=fresh())
    right["int8"] = answers(case, plain.model, target, fresh)
    begun = time.perf_counter()
    steps, mechanisms = [], []
    try:
        found = lepton.optimize(case.pivot, **asked, max_drop=BUDGET, context=fresh())
        right["recovered"] = answers(case, found.model, target, fresh)
        steps = [s["method"] for s in found.facts["recovery"]["steps"] if s["kept"]]
        mechanisms = sorted({f["mechanism"] for f in found.facts["diagnosis"]})
    except OptimizeError as error:
        steps = [error.code]
    seconds = time.perf_counter() - begun
    result = {"rows": len(case.labels), "seconds": seconds, "kept": steps, "shown": mechanisms}
    result["fp32"] = float(right["fp32"].mean())
    for key in ("int8", "recovered"):
        if key in right:
            lost, won = right["fp32"] & ~right[key], ~right["fp32"] & right[key]
            loss, low, high = interval(int(lost.sum()), int(won.sum()), len(case.labels))
            result[key] = {"accuracy": float(right[key].mean()), "loss": loss, "low": low,
                           "high": high}  # fmt: skip
    return result


def lepton_float(case, target, fresh):
    import lepton_core as lepton

    return lepton.convert(case.pivot, target=target, context=fresh()).model


def goal(name, result):
    """Return the largest loss accepted, ``None`` if the case has no goal."""
    if name in ("cnn", "outliers"):
        return SMALL
    return LEFT if result["int8"]["loss"] >= COLLAPSE else None


def verdict(name, result):
    """Return "met", "MISSED", "no goal", or that a case is no longer hard."""
    if name == "rescaled" and result["int8"]["loss"] < COLLAPSE:
        return "MISSED: int8 as it is no longer loses 20 points"
    limit, after = goal(name, result), result.get("recovered")
    if limit is None:
        return "no goal"
    return "met" if after is not None and after["loss"] <= limit else "MISSED"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    given = parser.parse_args()
    report, missed = {}, []
    print(f"  {'case':10} {'fp32':>7} {'int8':>7} {'recovered':>9}  loss in points (95 %)")
    for name in given.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            result = report[name] = measure(name, given.target, Path(folder))
        word, after = verdict(name, result), result.get("recovered")
        missed += [name] if word.startswith("MISSED") else []
        line = f"  {name:10} {result['fp32']:7.4f} {result['int8']['accuracy']:7.4f} "
        if after is not None:
            line += f"{after['accuracy']:9.4f}  {100 * after['loss']:+.2f} "
            line += f"({100 * after['low']:+.2f} to {100 * after['high']:+.2f})"
        print(f"{line}  {word}  {', '.join(result['kept']) or 'nothing kept'}; "
              f"{result['seconds']:.0f} s", flush=True)  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
