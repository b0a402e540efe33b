import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "tests" / "bench" / "kernels.py"


@pytest.mark.conformance
@pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmark is not part of this distribution")
def test_the_benchmark_runs_and_finds_lepton_exact(tmp_path):
    out = tmp_path / "bench.json"
    size = ["--rows", "64", "--columns", "96", "--rounds", "5"]
    names = ["int8_symmetric", "int4_blocks", "error_metrics", "histogram", "half_mask", "palette"]
    cases = [part for name in names for part in ("--case", name)]
    chart, page = tmp_path / "chart.svg", tmp_path / "page.md"
    begin = "<!-- measurements: written by tests/bench/kernels.py --page -->"
    page.write_text(f"before\n{begin}\nreplaced\n<!-- end of measurements -->\nafter\n")
    command = [sys.executable, str(SCRIPT), *size, *cases, "--out", str(out)]
    command += ["--chart", str(chart), "--page", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(out.read_text())
    assert set(report["cases"]) == set(names)
    assert {goal["verdict"] for goal in report["goals"]} <= {"met", "MISSED", "not measured"}
    exact = [goal for goal in report["goals"] if "unlike the definition" in goal["goal"]]
    assert [(goal["verdict"], goal["measured"]) for goal in exact] == [("met", "0")]
    # What was not measured says so: GPTQ was not among the cases.
    gptq = [goal for goal in report["goals"] if goal["goal"].startswith("gptq")]
    assert {goal["verdict"] for goal in gptq} == {"not measured"}
    marks = ElementTree.parse(chart).getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(marks)) > len(names)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "replaced" not in text
    assert all(f"**{name}**" in text for name in names)
    assert "2048 bins of the whole tensor (0.0 M values)" in text
    assert "| goal | set by | measured | |" in text
    assert {goal["set_by"] for goal in report["goals"]} == {"agreed", "own"}
    if hasattr(os, "getloadavg"):
        assert text.count("Load average ") == len(names)
    assert all(len(case["environment"]["versions"]) > 1 for case in report["cases"].values())
    int8 = report["cases"]["int8_symmetric"]["peers"]
    assert all(int8[peer]["values_unlike_definition"] == 0 for peer in int8 if "lepton" in peer)
    assert all(row["cpu_s"]["best"] >= 0 for row in int8.values())


@pytest.fixture
def kernels(monkeypatch):
    """The benchmark as a module."""
    if not SCRIPT.exists():
        pytest.skip("the benchmark is not part of this distribution")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("kernels")


@pytest.mark.parametrize("key", ["processor", "simd", "versions", None])
def test_cases_of_another_machine_are_not_kept(tmp_path, kernels, capsys, key):
    now = kernels.environment()
    then = now if key is None else now | {key: "another"}
    out = tmp_path / "bench.json"
    cases = {"minmax": {"environment": then}, "half_mask": {"environment": now}}
    out.write_text(json.dumps({"shape": [8, 8], "cases": cases}))
    options = argparse.Namespace(rounds=5, update=True, out=out)
    found = kernels.begin(options, (8, 8))["cases"]
    assert set(found) == ({"half_mask", "minmax"} if key is None else {"half_mask"})
    assert ("minmax" in capsys.readouterr().err) == (key is not None)
    assert not kernels.begin(options, (8, 16))["cases"]
    out.write_text(json.dumps({"shape": [8, 8], "cases": {"minmax": {}}}))
    assert not kernels.begin(options, (8, 8))["cases"]


RETAIN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import kernels
size = 20 << 20
first = np.ones(30 << 20, np.int8)
del first  # from here on glibc takes less than this from its heap
kept, pins = [], []
for _ in range(2):
    kept.append(np.ones(size, np.int8))
    pins.append(np.ones(100_000, np.int8))
del kept
print(kernels.first_round(kernels.Peer(lambda: np.ones(size, np.int8)), None)["peak_mb"])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells of the heap of glibc")
def test_memory_that_the_heap_keeps_counts_as_taken(kernels):
    if not kernels.forget_peak():
        pytest.skip("the peak of resident memory cannot be reset here")
    command = [sys.executable, "-c", RETAIN, str(SCRIPT.parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 18 <= float(done.stdout) <= 24
