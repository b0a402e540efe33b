"""What models are called, which target is meant, and what is no model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_core
import lepton_core.registry as registry
from lepton_ai import ModelAdapter, ModelConverter, ModelDeployer, ModelOptimizer, default_target
from lepton_ai._inputs import describe
from lepton_core.capabilities import Support
from lepton_core.catalogue import KnownPlugin
from lepton_core.errors import (
    LeptonError,
    OptimizeError,
    PluginError,
    SessionError,
    StorageError,
    UnknownTargetError,
    UsageError,
)
from lepton_core.types import LineageStep, Model, Variant


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bert-base-cased", "bert-base-cased"),
        ("google/bert_uncased_L-2", "google--bert_uncased_L-2"),
        ("org/model-v1.5", "org--model-v1.5"),
        ("small.onnx", "small"),
        ("nets/digits.py:net", "digits-net"),
        ("folder", "folder"),
        (Path("folder"), "folder"),
        (".", "here"),
        ("with space.onnx", "with-space"),
        (Model("torch.export", "/x/model.pt2", metadata={"source": {"name": "o/n"}}), "o--n"),
        (Model("x", "/x/a.bin", metadata={"source": {"file": "n.py", "entry": "net"}}), "n-net"),
        (Model("x", "/x/a.bin", digest="sha256:0"), "a"),
    ],
)
def test_names(here, given, name):
    for file in ("small.onnx", "with space.onnx"):
        (here / file).write_bytes(b"")
    (here / "folder").mkdir()
    assert describe(given).name == name


def test_a_model_keeps_the_target_it_was_made_for():
    assert describe(Model("openvino", "/x/model.xml")).target == "openvino"
    assert describe(Model("torch.export", "/x/model.pt2")).target == ""
    variant = Variant("openvino:gpu", "fp32", Model("openvino", "/x/model.xml"))
    assert describe(variant).target == "openvino:gpu"


@pytest.mark.parametrize("given", [None, 3, "", "  ", b"bert", object(), ["bert"]])
def test_what_is_no_model(here, given):
    for verb in (
        ModelAdapter(given).adapt,
        lambda: ModelConverter().convert(given),
        ModelOptimizer(given).optimize,
        ModelDeployer(given).deploy,
    ):
        with pytest.raises(UsageError) as caught:
            verb()
        assert caught.value.code == "LPT-AI-001"
        assert caught.value.remedy
    assert not [*here.iterdir()]


def test_live_modules_are_told_what_to_write():
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match="Linear") as caught:
        ModelConverter().convert(torch.nn.Linear(2, 2))
    assert "net.py:build" in caught.value.remedy

    class Pretrained:
        def save_pretrained(self): ...

    with pytest.raises(UsageError) as caught:
        ModelConverter().convert(Pretrained())
    assert "save_pretrained('directory')" in caught.value.remedy


def test_the_default_target_is_the_first_that_can_be_used(fresh_hooks, monkeypatch):
    assert default_target() == "onnxruntime"
    for disabled, expected in (("onnxruntime", "openvino"), ("onnxruntime,openvino", None)):
        monkeypatch.setenv("LEPTON_DISABLED_PLUGINS", disabled)
        fresh_hooks()
        if expected:
            assert default_target() == expected
            continue
        with pytest.raises(PluginError) as caught:
            default_target()
        assert caught.value.code == "LPT-AI-002"
        assert caught.value.cause.count("switched off") == 2


def test_a_runtime_that_is_missing_makes_its_target_unusable(monkeypatch):
    from lepton_core import _plugin_checks

    real = _plugin_checks.versions_of
    monkeypatch.setattr(
        _plugin_checks,
        "versions_of",
        lambda *names: {} if "onnxruntime" in names else real(*names),
    )
    assert default_target() == "openvino"


@pytest.mark.parametrize(
    ("target", "error"),
    [("opnvino", UnknownTargetError), ("acme", PluginError), (" ", UsageError)],
)
def test_targets_that_cannot_be_used(here, small_onnx, monkeypatch, target, error):
    absent = KnownPlugin("acme", "Acme", "target", Support.FULL, "lepton-acme")
    monkeypatch.setattr(registry, "KNOWN", {**registry.KNOWN, "acme": absent})
    with pytest.raises(error):
        ModelConverter(target).convert(small_onnx)
    assert not [*here.iterdir()]


# --- on a small ONNX file, without torch ---------------------------------------------------------


def rows(count=64):
    return {"x": np.random.default_rng(5).normal(size=(count, 16)).astype(np.float32)}


def test_the_target_stays_with_the_result(here, small_onnx):
    converted = ModelConverter("openvino").convert(small_onnx)
    assert converted.path == str(here / "lepton-ai-out/small/openvino/converted-fp32/model.xml")
    optimizer = ModelOptimizer(converted, samples=rows())
    optimized = optimizer.optimize()
    assert Path(optimized.path).parent == here / "lepton-ai-out/small/openvino/optimized-auto"
    with lepton_core.open(optimized) as session:
        assert session.facts["runtime"] == "openvino"
        found = session.run(rows())["y"]
    with lepton_core.open(small_onnx) as session:
        wanted = session.run(rows())["y"]
    assert np.linalg.norm(found - wanted) <= 0.15 * np.linalg.norm(wanted)


def test_an_earlier_result_is_replaced_and_the_old_object_noticed(here, small_onnx):
    converter = ModelConverter()
    first = converter.convert(small_onnx)
    assert converter.convert(small_onnx) == first
    again = converter.convert(first)
    assert again.digest == first.digest
    Path(first.path).write_bytes(b"other")
    for use in (lambda: lepton_core.open(first), ModelOptimizer(first).optimize):
        with pytest.raises(SessionError) as caught:
            use()
        assert caught.value.code == "LPT-RUN-003"


def test_what_is_not_ours_is_not_replaced(here, small_onnx):
    (here / "mine").mkdir()
    (here / "mine/file").write_text("mine")
    with pytest.raises(StorageError) as caught:
        ModelConverter().convert(small_onnx, out="mine")
    assert caught.value.code == "LPT-IO-003"
    ModelConverter(force=True).convert(small_onnx, out="mine")
    assert not (here / "mine/file").exists()


def test_fp16_is_stored_as_such_and_leads_back_to_fp32(here, small_onnx):
    half = ModelConverter(precision="fp16").convert(small_onnx)
    assert half.metadata["storage_precision"] == "fp16"
    assert Path(half.path).parent.name == "converted-fp16"
    whole = ModelConverter().convert(half)
    assert whole.metadata["storage_precision"] == "fp32"
    assert Path(whole.path).parent.name == "converted-fp32"


def test_variants_of_a_port_are_inputs(here, small_onnx):
    np.savez("data.npz", **rows(200))
    built = lepton_core.port(str(small_onnx), targets=["onnxruntime"], samples="data.npz")
    best = built["onnxruntime"].best
    moved = ModelConverter("openvino").convert(best)
    assert moved.format == "openvino"
    result = ModelDeployer(best, name="n", store="store", samples="data.npz").deploy()
    with lepton_core.deployment("n@production", store="store") as deployed:
        assert deployed.run(rows(2))["y"].shape == (2, 4)
    assert result.facts["alias"] == "production"


def test_a_bundle_stands_in_its_own_directory(here, small_onnx):
    ModelDeployer(small_onnx, name="n", store="store", kind="bundle", alias=None).deploy()
    assert (here / "n").is_dir()


def test_samples_that_do_not_fit_and_budgets_that_cannot_be_met(here, small_onnx):
    converted = ModelConverter().convert(small_onnx)
    for samples in ({"z": np.zeros((3, 16), np.float32)}, "nowhere.npz", {"x": [[1], [1, 2]]}):
        with pytest.raises(LeptonError) as caught:
            ModelOptimizer(converted, samples=samples).optimize()
        assert caught.value.code.startswith("LPT-DATA-")
    with pytest.raises(LeptonError) as caught:
        ModelOptimizer(converted, precision="int3", samples=rows()).optimize()
    assert caught.value.code == "LPT-OPT-011"
    assert sorted(p.name for p in Path(converted.path).parents[1].iterdir()) == ["converted-fp32"]


def test_a_model_without_the_graph_it_came_from(here, tmp_path):
    path = tmp_path / "model.xml"
    path.write_text("x")
    from lepton_core.files import digest_path

    lone = Model(
        "openvino", str(path), digest=digest_path(path),
        lineage=(LineageStep("convert pivot -> openvino", "x 1", "sha256:1"),),
    )  # fmt: skip
    with pytest.raises(LeptonError) as caught:
        ModelOptimizer(lone).optimize()
    assert caught.value.code == "LPT-PLAN-003"


def test_a_directory_that_is_no_model(here):
    (here / "empty").mkdir()
    with pytest.raises(LeptonError) as caught:
        ModelConverter().convert("empty")
    assert caught.value.code == "LPT-SRC-003"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is needed")
def test_there_are_bars_on_a_terminal(here, small_onnx):
    import pty

    controller, terminal = pty.openpty()
    code = "import sys; from lepton_ai import ModelConverter as C; C().convert(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_onnx)],
        stdout=subprocess.PIPE, stderr=terminal, check=True, timeout=120,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    shown = os.read(controller, 100_000).decode(errors="replace")
    os.close(controller)
    assert "convert small for onnxruntime" in shown
    assert done.stdout == b""


def test_importing_is_light():
    code = (
        "import sys, lepton_ai; heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy', "
        "'transformers', 'rich', 'msgspec'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_optimizer_heeds_the_device_of_its_target(here, small_onnx, monkeypatch):
    seen = {}

    def optimize(source, **given):
        seen.update(given)
        raise OptimizeError("LPT-OPT-010", "enough")

    monkeypatch.setattr(lepton_core, "optimize", optimize)
    with pytest.raises(OptimizeError):
        ModelOptimizer(small_onnx, target="coreml:ios17").optimize()
    assert (seen["target"], seen["device"]) == ("coreml", "ios17")
