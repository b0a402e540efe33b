import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tests" / "bench" / "kernels.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmark is not part of this distribution")
def test_the_benchmark_runs_and_finds_lepton_exact(tmp_path):
    out = tmp_path / "bench.json"
    size = ["--rows", "64", "--columns", "96", "--rounds", "5"]
    names = ["int8_symmetric", "int4_blocks", "error_metrics", "histogram", "half_mask", "palette"]
    cases = [part for name in names for part in ("--case", name)]
    command = [sys.executable, str(SCRIPT), *size, *cases, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(out.read_text())
    assert set(report["cases"]) == set(names)
    int8 = report["cases"]["int8_symmetric"]["peers"]
    assert all(int8[peer]["values_unlike_definition"] == 0 for peer in int8 if "lepton" in peer)
    assert all(row["cpu_s"]["best"] >= 0 for row in int8.values())
