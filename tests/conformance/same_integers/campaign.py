"""All networks on all runtimes: the results that the page is written from."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations

import numpy as np

from lepton_core.dispatch import Hooks
from lepton_core.environment import sums_may_saturate, version_of
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

from .measure import RUNTIMES, Bench
from .networks import NETWORKS, prepare
from .reference import TIE, compute, from_tie

ROWS = 400
VERSIONS = ("onnxruntime", "openvino", "ai-edge-litert", "coremltools", "onnx", "numpy")


def results(folder, names=tuple(NETWORKS), targets=tuple(RUNTIMES), rows=ROWS, say=lambda _: None):
    """Train, calibrate, lower and run; return JSON types.

    Args:
        folder: An empty folder for files.
        names: Of :data:`~.networks.NETWORKS`.
        targets: Of :data:`~.measure.RUNTIMES`.
        rows: Held-out digits.
        say: Is told what comes next.

    Returns:
        ``networks`` by name, each with the layers and what runtimes do; ``versions``; ``vnni``,
        whether the CPU sums products of 8-bit integers in 32 bits; ``rows``.
    """
    found = {}
    with WorkerPool() as pool:
        hooks = Hooks(Registry(), pool)
        for name in names:
            say(f"{name}: train, calibrate, compute the reference")
            prepared = prepare(name, folder / name, hooks, rows)
            reference = compute(prepared.pivot, prepared.recipe, {"image": prepared.held})
            found[name] = _network(prepared, reference, hooks, folder / name, targets, say)
    return {
        "networks": found,
        "rows": rows,
        "versions": {name: version_of(name) for name in VERSIONS},
        "vnni": not sums_may_saturate(),
    }


def merged(before, found):
    """Return results with some networks measured again.

    Raises:
        ValueError: They were measured otherwise: with other versions, rows, or kind of CPU.
    """
    other = [key for key in ("rows", "versions", "vnni") if before[key] != found[key]]
    if other:
        raise ValueError(f"measured with other {', '.join(other)}; measure all networks again")
    networks = before["networks"] | found["networks"]
    return {**found, "networks": {n: networks[n] for n in NETWORKS if n in networks}}


def _network(prepared, reference, hooks, folder, targets, say):
    (output,) = reference.outputs
    chosen = {"recipe": reference.outputs[output].argmax(1)}
    runtimes = {}
    for target in targets:
        say(f"{prepared.name}: {target}")
        bench = Bench(prepared, reference, target, hooks, folder / target)
        layers = bench.layers()
        fed, samples = bench.whole(reference.real(bench.input), prepared.held)
        for name, outputs in bench.outputs().items():
            chosen[name] = outputs.argmax(1)
            runtimes[name] = {
                "integers": bench.facts[name],
                "floats": bench.floats(),
                "layers": _json(layers[name]),
                "from_integers": _json(fed[name]),
                "from_samples": _json(samples[name]),
            }
    operators = {one.output: one.op for one in bench.yields}
    return {
        "layers": {
            value: {
                "operator": operators[value],
                "count": reference.integers[value].size,
                "ties": int((from_tie(reference.units[value]) < TIE).sum()),
            }
            for value in operators
        },
        "margin": reference.margin,
        "runtimes": runtimes,
        "right": {name: int((one == prepared.labels).sum()) for name, one in chosen.items()},
        "agree": {
            f"{a} | {b}": int(np.equal(chosen[a], chosen[b]).sum())
            for a, b in combinations(chosen, 2)
        },
    }


def _json(found):
    return {value: asdict(one) for value, one in found.items()}
