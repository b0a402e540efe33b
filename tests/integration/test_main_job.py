"""The main job from built wheels, outside the tree, as a user would run it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from devtools.projects import ROOT

pytestmark = [pytest.mark.xdist_group("clean-environments"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo(clean_env, tmp_path_factory):
    """Run the demonstration in an environment of wheels; return its output folder."""
    env = clean_env(
        "lepton-torch", "lepton-onnxruntime", "lepton-openvino", "lepton-compress",
        "lepton-tflite", "lepton-coreml", extras=("cpu", "convert"), requirements=("scikit-learn",),
    )  # fmt: skip
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


def test_the_demonstration_proves_what_it_builds(demo):
    output, out = demo
    result = json.loads((out / "port" / "result.json").read_text())
    assert result["ok"]
    built = [(v["target"], v["precision"]) for v in result["variants"]]
    precisions = ("fp32", "fp16", "int8")
    targets = ("onnxruntime", "openvino", "tflite", "coreml")
    assert built == [(t, p) for t in targets for p in precisions]
    for variant in result["variants"]:
        assert variant["verdict"] == "pass"
        assert variant["metrics"]["name"] == "top1"
        assert variant["metrics"]["source"] > 0.97
        assert variant["metrics"]["drop"] <= 0.005
        # How fast a variant is here decides about the others.
        if variant["precision"] == "fp32" or variant["target"] != "openvino":
            assert variant["kept"], variant["why"]
        # An interpreter stands for the device here: its time would say nothing.
        assert (variant["latency_ms"]["p50"] is None) == (variant["target"] == "coreml")
        assert "faster" not in variant["why"] or variant["target"] != "coreml"
    assert "report.html" in output
    page = (out / "port" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_demonstration_adjusts_migrates_and_goes_back_without_a_failed_call(demo):
    output, out = demo
    calls, failed = re.search(r"^([\d,]+) calls, (\d+) failed", output, re.MULTILINE).groups()
    assert int(calls.replace(",", "")) > 1000
    assert failed == "0"
    assert "done: within the numeric limits" in output
    page = (out / "digits.html").read_text()
    assert "migration to openvino: done" in page and "the demonstration ends" in page


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
    assert 'pip install "$(ls dist/lepton_torch-*.whl)' in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_missing_says_what_to_install(demo, onnx_env, tmp_path):
    _, out = demo
    model = out / "port/onnxruntime/fp32/model.onnx"
    done = lepton(onnx_env, "port", model, "--to", "torch", cwd=tmp_path)
    assert done.returncode == 4
    assert 'pip install "$(ls dist/lepton_torch-*.whl)' in done.stderr
