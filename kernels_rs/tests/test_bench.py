import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "tests" / "bench" / "kernels.py"


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
    int8 = report["cases"]["int8_symmetric"]["peers"]
    assert all(int8[peer]["values_unlike_definition"] == 0 for peer in int8 if "lepton" in peer)
    assert all(row["cpu_s"]["best"] >= 0 for row in int8.values())
