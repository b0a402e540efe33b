#!/usr/bin/env python3
"""Measures hot swaps of a deployment under load, and what its fast path costs.

Four threads call a deployment of a small network on ONNX Runtime while its alias moves to and
fro. Goals: no failed call of 50,000, and the p99 of calls within 0.3 s after the alias moved at
most twice the p99 of calls without any.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import lepton_core
from lepton_core.store import Store

CALLS = 50_000
THREADS = 4
AFTER_SWAP = 0.3
WIDTH = 256
ROWS = 32


def network(path: Path, factor: float) -> Path:
    """Write three dense layers of WIDTH."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    nodes, weights, value = [], [], "x"
    for layer in range(3):
        weight = (factor * rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"]))
        value = "y" if layer == 2 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [value]))
    shape = ["batch", WIDTH]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


class Load:
    """Threads that call until they have called often enough, and note when and how long."""

    def __init__(self, deployed: object, expected: list[np.ndarray]) -> None:
        self.deployed = deployed
        self.expected = expected
        self.calls: list[list[tuple[float, float]]] = [[] for _ in range(THREADS)]
        self.failed: list[str] = []

    def work(self, number: int, count: int) -> None:
        """Call *count* times."""
        x = {"x": np.full((ROWS, WIDTH), 0.5, np.float32)}
        noted = self.calls[number]
        for _ in range(count):
            began = time.perf_counter()
            try:
                y = self.deployed.run(x)["y"]  # type: ignore[attr-defined]
                if not any(np.allclose(y, e, rtol=1e-4) for e in self.expected):
                    self.failed.append("a wrong answer")
            except Exception as error:  # counted, whatever it is
                self.failed.append(repr(error))
            noted.append((began, time.perf_counter()))

    def run(self, count: int, meanwhile: object) -> list[tuple[float, float]]:
        """Call *count* times in all, with *meanwhile* beside it; returns begin and end."""
        self.calls = [[] for _ in range(THREADS)]
        workers = [
            threading.Thread(target=self.work, args=(n, count // THREADS)) for n in range(THREADS)
        ]
        for worker in workers:
            worker.start()
        meanwhile(workers)  # type: ignore[operator]
        for worker in workers:
            worker.join()
        return [one for calls in self.calls for one in calls]


def p99(durations: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return float(np.percentile(durations, 99)) * 1000


def swaps_under_load(folder: Path) -> dict[str, object]:
    """Measure without swaps, then with an alias that moves all the time."""
    with Store(folder / "store") as store:
        for factor in (1.0, 1.1):
            lepton_core.deploy(
                network(folder / f"net{factor}.onnx", factor),
                name="net",
                target="onnxruntime",
                alias="production",
                options={"store": str(store.path)},
            )
        versions = [v.id for v in store.versions("net")]
        x = {"x": np.full((ROWS, WIDTH), 0.5, np.float32)}
        expected = []
        for version in versions:
            with lepton_core.deployment(f"net@{version}", store=store, threads=1) as one:
                expected.append(one.run(x)["y"])
        with lepton_core.deployment("net", store=store, threads=1, poll_seconds=0.02) as deployed:
            load = Load(deployed, expected)
            load.run(4000, lambda workers: None)
            quiet = load.run(CALLS // 2, lambda workers: None)
            moved: list[float] = []

            def move(workers: list[threading.Thread]) -> None:
                number = 0
                while any(worker.is_alive() for worker in workers):
                    store.promote("net", versions[number % 2])
                    moved.append(time.perf_counter())
                    number += 1
                    time.sleep(0.5)

            busy = load.run(CALLS, move)
            swaps = deployed.swaps
            alarms = [alarm.message for alarm in deployed.alarms]
    near = [e - b for b, e in busy if any(m <= e and b <= m + AFTER_SWAP for m in moved)]
    before, during = p99([e - b for b, e in quiet]), p99(near)
    return {
        "calls": len(busy),
        "threads": THREADS,
        "swaps": swaps,
        "failed": len(load.failed),
        "first_failures": load.failed[:3],
        "alarms": alarms,
        "p50_quiet_ms": statistics.median(e - b for b, e in quiet) * 1000,
        "p99_quiet_ms": before,
        "p99_during_ms": during,
        "max_during_ms": max(near) * 1000,
        "calls_during": len(near),
        "p99_ratio": during / before,
    }


def overhead(folder: Path) -> dict[str, float]:
    """Compare a call of the handle with a call of the bare session, one thread, interleaved."""
    with (
        Store(folder / "store") as store,
        lepton_core.deployment("net", store=store, threads=1, poll_seconds=None) as deployed,
    ):
        x = {"x": np.full((1, WIDTH), 0.5, np.float32)}
        session = deployed._table.main.session
        rounds: dict[str, list[float]] = {"session": [], "handle": []}
        for _ in range(41):
            for name, run in (("session", session.run), ("handle", deployed.run)):
                began = time.perf_counter()
                for _ in range(200):
                    run(x)
                rounds[name].append((time.perf_counter() - began) / 200 * 1e6)
        best = {name: statistics.median(times) for name, times in rounds.items()}
        return {**best, "overhead_us": best["handle"] - best["session"]}


def main() -> None:
    """Measure, write the report, and fail if a call failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write JSON here")
    out: Path | None = parser.parse_args().out
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as name:
        report = {"swaps": swaps_under_load(Path(name)), "fast_path_us": overhead(Path(name))}
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    swaps = report["swaps"]
    met = swaps["failed"] == 0 and swaps["p99_ratio"] <= 2.0 and swaps["swaps"] > 0
    print(json.dumps(report, indent=2))
    print("goals met" if met else "goals MISSED")
    if swaps["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
