"""The main job from built wheels, outside the tree, as a user would run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from devtools.projects import ROOT

pytestmark = [pytest.mark.xdist_group("clean-environments"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo(clean_env, tmp_path_factory):
    """Run the demonstration in an environment of wheels; return its output folder."""
    env = clean_env(
        "lepton-torch", "lepton-onnxruntime", extras=("cpu",), requirements=("scikit-learn",)
    )
    folder = tmp_path_factory.mktemp("demo with a space")
    for name in ("demo.py", "digits.py"):
        shutil.copy(ROOT / "docs" / "examples" / name, folder)
    done = env.run(["demo.py", "--out", "out"], cwd=folder, timeout=800)
    return done.stdout, folder / "out"


@pytest.fixture(scope="module")
def onnx_env(clean_env):
    """An environment that has ONNX Runtime and no torch."""
    return clean_env("lepton-onnxruntime", extras=("cpu",))


def lepton(env, *arguments, cwd):
    """Run the console script and return the finished process."""
    code = "import sys; from lepton_core.cli import main; sys.exit(main())"
    return env.run(["-c", code, *arguments], cwd=cwd, check=False)


def test_the_demonstration_proves_both_precisions(demo):
    output, out = demo
    result = json.loads((out / "port" / "result.json").read_text())
    assert result["ok"]
    assert [v["precision"] for v in result["variants"]] == ["fp32", "fp16"]
    for variant in result["variants"]:
        assert variant["kept"]
        assert variant["verdict"] == "pass"
        assert variant["metrics"]["name"] == "top1"
        assert variant["metrics"]["source"] > 0.97
        assert variant["metrics"]["drop"] <= 0.005
        assert Path(variant["path"]).stat().st_size == variant["size_bytes"]
    assert "report.html" in output
    page = (out / "port" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_an_onnx_source_needs_no_torch(demo, onnx_env, tmp_path):
    _, out = demo
    done = lepton(
        onnx_env, "port", out / "port/onnxruntime/fp32/model.onnx", "--to", "onnxruntime",
        "--data", out / "source/digits.npz", "--precision", "fp32,fp16", "--out", "ported",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"]
    assert [v["kept"] for v in result["variants"]] == [True, True]


def test_a_source_whose_plugin_is_missing_says_what_to_install(demo, onnx_env, tmp_path):
    _, out = demo
    source = f"{out / 'source' / 'digits.py'}:net"
    done = lepton(onnx_env, "port", source, "--to", "onnxruntime", cwd=tmp_path)
    assert done.returncode == 4
    assert 'pip install "lepton-torch' in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_missing_says_what_to_install(demo, onnx_env, tmp_path):
    _, out = demo
    model = out / "port/onnxruntime/fp32/model.onnx"
    done = lepton(onnx_env, "port", model, "--to", "torch", cwd=tmp_path)
    assert done.returncode == 4
    assert 'pip install "lepton-torch' in done.stderr
