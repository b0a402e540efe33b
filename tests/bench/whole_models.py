#!/usr/bin/env python3
"""Ports whole networks to every runtime that is here, as fp32 and int8, and writes how they fare.

Networks of eight kinds (:mod:`_whole_networks`, random weights, inputs of smooth noise) are ported
from one exported program with an open batch, by `lepton port`: each variant is compared with the
source on held-out rows, and int8 is timed in turns with fp32, for one row a call. Results go to
``tests/bench/whole_models.json`` and from there onto ``docs/reference/whole-models.md``. It takes
a quarter of an hour on a quiet machine; ``--only NETWORK`` measures one again, ``--page`` only
writes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__)
RESULTS = HERE.with_name("whole_models.json")
PAGE = HERE.parents[2] / "docs" / "reference" / "whole-models.md"
KINDS = (
    "CNN", "ResNet-like", "MobileNet-like", "U-Net", "BERT-like", "ViT-like", "LSTM", "MLP",
)  # fmt: skip
TARGETS = ("onnxruntime", "openvino", "tflite", "coreml")
ROWS = 160
PACKAGES = ("onnxruntime", "openvino", "ai-edge-litert", "litert-torch", "coremltools", "torch")
_BLOCK = re.compile(r"(<!-- (\w+): [^\n]*-->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)


def ported(name, folder):
    """Port one network; return by target and precision what came of it."""
    from _whole_networks import exported, made

    import lepton_core as lepton
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry
    from lepton_core.workers import WorkerPool

    exported(name, folder / "net.pt2", batch=True)
    rows = made(name)[2](ROWS)
    np.savez(folder / "rows.npz", **rows)
    found = {}
    with WorkerPool() as pool:
        hooks = Hooks(Registry(), pool)
        for target in TARGETS:
            result = lepton.port(
                folder / "net.pt2", targets=[target], precisions=["fp32", "int8"],
                samples=folder / "rows.npz", metric="rel_l2", out=folder / target, threads=1,
                latency_seconds=0, hooks=hooks,
            )  # fmt: skip
            found[target] = {v.precision: _said(v) for v in result.variants}
            pair = [v.model for v in result.variants]
            if target != "coreml" and None not in pair:
                found[target]["race"] = raced(pair, target, rows, hooks, folder)
            print(name, target, found[target], flush=True)
    return found


def _said(variant):
    said = {"verdict": variant.verdict, "kept": variant.kept, "why": variant.why}
    sheet = variant.passport
    if sheet:
        said |= {
            "size": sheet["variant"]["size_bytes"],
            "executed": sheet["variant"]["execution_precision"],
            "rel_l2": max(one["rel_l2"] for one in sheet["outputs"].values()),
        }
    return said


def raced(pair, target, rows, hooks, folder):
    """Time fp32 and int8 in turns, one row a call, one thread."""
    from lepton_core.context import Context
    from lepton_core.timing import race
    from lepton_core.types import OpenRequest

    context = Context(Path(tempfile.mkdtemp(dir=folder)), hooks=hooks)
    one, two = (hooks.open(m, OpenRequest(target, threads=1), context) for m in pair)
    with one, two:
        return race((one, two), [{n: a[i : i + 1] for n, a in rows.items()} for i in range(8)])


def machine():
    """Return what the times depend on."""
    from lepton_core.environment import sums_may_saturate, version_of

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "vnni": not sums_may_saturate(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def filled(text, results):
    """Return the page with its tables written anew."""
    tables = {"measured": _measured, "verdicts": _verdicts, "sizes": _sizes, "speed": _speed}
    return _BLOCK.sub(lambda m: m[1] + "\n".join(tables[m[2]](results)) + "\n" + m[3], text)


def _row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _table(results, cell, targets):
    yield _row("network", *targets)
    yield f"|---|{'---|' * len(targets)}"
    for name, found in results["networks"].items():
        yield _row(name, *(cell(found.get(target, {})) for target in targets))


def _measured(results):
    where = results["machine"]
    words = "has" if where["vnni"] else "has no"
    loads = results["loads"].values()
    yield (
        f"Measured on {where['cpu']}, {where['cores']} cores, one thread; the CPU {words} VNNI or "
        f"its like. {ROWS} rows, a part of them held out. The machine's load was {min(loads)} to "
        f"{max(loads)} while this was measured: read ratios."
    )
    missing = [name for name in KINDS if name not in results["networks"]]
    if missing:
        yield ""
        yield f"Not measured yet: {', '.join(missing)}."
    yield ""
    yield "Versions: " + ", ".join(f"{n} {v}" for n, v in where["versions"].items()) + "."


def _verdicts(results):
    def cell(found):
        words = []
        for precision in ("fp32", "int8"):
            one = found.get(precision)
            if one is None:
                words.append("-")
            elif "rel_l2" in one:
                words.append(f"{one['verdict']} {one['rel_l2']:.1e}")
            else:
                words.append(one["why"].partition(" ")[0].rstrip(":"))
        return " / ".join(words)

    yield from _table(results, cell, TARGETS)
    yield ""
    for target in TARGETS:
        counts = []
        for precision in ("fp32", "int8"):
            ones = [f[target][precision] for f in results["networks"].values()
                    if precision in f.get(target, {})]  # fmt: skip
            passed = sum(one["verdict"] == "pass" for one in ones)
            counts.append(f"{precision} {passed} of {len(ones)}")
        yield f"- {target} passes: {', '.join(counts)}."


def _sizes(results):
    def cell(found):
        sizes = [found.get(p, {}).get("size") for p in ("fp32", "int8")]
        if None in sizes:
            return "-"
        return f"{sizes[0] / 1e6:.2f} / {sizes[1] / 1e6:.2f} ({sizes[0] / sizes[1]:.2f})"

    yield from _table(results, cell, TARGETS)


def _speed(results):
    def cell(found):
        race = found.get("race")
        if not race:
            return "-"
        low, high = race["interval"]
        return f"{race['before_ms']:.3g} / {race['after_ms']:.3g} ({low:.2f} to {high:.2f})"

    yield from _table(results, cell, TARGETS[:3])


def main():
    warnings.simplefilter("ignore")  # torch's own
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=KINDS)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    empty = {"networks": {}, "loads": {}}
    results = json.loads(given.out.read_text()) if given.out.exists() else empty
    for name in () if given.page else given.only or KINDS:
        with tempfile.TemporaryDirectory(prefix="whole-models-") as folder:
            results["networks"][name] = ported(name, Path(folder))
        results["machine"] = machine()
        results["loads"][name] = results["machine"].pop("load")
        results["networks"] = {n: results["networks"][n] for n in KINDS if n in results["networks"]}
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    if given.out == RESULTS:
        PAGE.write_text(filled(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
