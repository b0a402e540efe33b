"""From a trained module over adapt to two runtimes, with a passport: the whole way."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lepton_core import hooks as core_hooks
from lepton_core.capabilities import Constraints
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.porting import port
from lepton_core.preflight import check
from lepton_core.registry import Registry
from lepton_core.types import AdaptRequest, InspectRequest, OptimizeRequest

FORBIDDEN = ("aten.hardswish", "aten.adaptive_avg_pool2d", "aten.group_norm", "aten.batch_norm")
NET = """
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.act = nn.Hardswish(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(12, 12, 3, groups=4), nn.GroupNorm(3, 12), nn.Dropout())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(48, 10)

    def forward(self, image):
        x = self.act(self.stem(image))
        x = self.pool(self.act(self.deep(x)))
        return {"logits": self.head(x.flatten(1))}


def net():
    module = Net()
    weights = Path(__file__).with_name("net.safetensors")
    if weights.exists():
        module.load_state_dict(load_file(weights))
    return module, {"image": torch.zeros(1, 1, 8, 8)}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network of everything that the targets below forbid, trained on digits."""
    import runpy

    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("adapted-digits")
    path = folder / "net.py"
    path.write_text(NET)
    data = load_digits()
    images = (data.images[:, None] / 16).astype("float32")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads would wait for each other on a busy machine
    module, _ = runpy.run_path(str(path))["net"]()
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    x, y = torch.from_numpy(images[:1200]), torch.from_numpy(data.target[:1200])
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x)["logits"], y).backward()
        optimizer.step()
    save_file(module.state_dict(), str(folder / "net.safetensors"))
    np.savez(folder / "held.npz", image=images[1200:1500], labels=data.target[1200:1500])
    return path


@pytest.fixture
def strict_hooks():
    """The installed plugins, of which two targets have become picky, without workers."""
    everything = Registry(environ={})
    registry = Registry(environ={}, entries=())
    limits = {
        "onnxruntime": Constraints(forbidden_ops=FORBIDDEN),
        "openvino": Constraints(forbidden_ops=FORBIDDEN, static_shapes=True),
    }
    for name in ("torch", "onnx", "compress", "embedded", *limits):
        if name not in everything.records:
            pytest.skip(f"{name} is not installed")
        info = everything.info(name)
        if name in limits:
            info = replace(info, constraints=limits[name])
        plugin = everything.load(name)
        registry.register(_renewed(name, plugin), info)
    hooks = Hooks(registry)
    core_hooks.use(hooks)
    return hooks


def _renewed(name, plugin):
    """Return a plugin object of our own with the hooks of an installed one."""
    renewed = types.ModuleType(f"renewed_{name}")
    vars(renewed).update({k: v for k, v in vars(plugin).items() if k.startswith("lepton_")})
    return renewed


def test_port_adapts_for_two_families_and_both_pass(source, strict_hooks, tmp_path):
    result = port(
        f"{source}:net",
        targets=["onnxruntime", "openvino"],
        samples=source.with_name("held.npz"),
        precisions=["fp32"],
        max_drop=0.005,
        out=tmp_path / "out",
        latency_seconds=0,
        threads=1,
        hooks=strict_hooks,
    )
    assert result.ok, [v.why for v in result.variants]
    for variant in result.variants:
        passport = variant.passport
        assert passport.verdict == "pass"
        assert passport["metric"]["drop"] == 0
        assert passport["outputs"]["logits"]["rel_l2"] < 1e-5
        lineage = passport["variant"]["lineage"]
        assert [s["step"] for s in lineage[:3]] == [
            "materialise", "adapt", "convert torch.export -> pivot",
        ]  # fmt: skip
        changes = lineage[1]["request"]["changes"]
        done = {line.partition(":")[0] for line in changes}
        assert done >= {
            "drop-training-only", "fold-batch-norm", "fix-adaptive-pool", "expand-hardswish",
            "expand-group-norm",
        }  # fmt: skip
        assert any("net.py:19 in forward" in line for line in changes)
        assert ("fix-shapes" in done) is (variant.target == "openvino")
        shape = result[variant.target].best.model.signature.inputs[0].shape
        assert shape[0] == (1 if variant.target == "openvino" else "batch")
        # The yardstick is the source as it was.
        assert passport["source"]["digest"] == result.source["digest"]
        assert "adapt" not in [s["step"] for s in passport["source"]["lineage"]]


def test_check_says_so_beforehand(source, strict_hooks, tmp_path):
    report = check(f"{source}:net", ["onnxruntime", "openvino"], strict_hooks, Context(tmp_path))
    picky, static = report.targets
    assert report.ok
    assert picky.verdict == static.verdict == "needs-rewrite"
    assert set(picky.rewrites) == {
        "fold-batch-norm", "expand-batch-norm", "expand-hardswish", "expand-group-norm",
        "fix-adaptive-pool",
    }  # fmt: skip
    assert "fix-shapes" in static.rewrites
    assert any("hardswish" in r and "net.py:19 in forward" in r for r in picky.reasons)


def test_every_verb_takes_what_adapt_returned(source, strict_hooks, tmp_path):
    """As an object or as a file: convert, optimize, deploy; port is tested in the core."""
    import lepton_core as lepton

    def place(name):
        (tmp_path / name).mkdir()
        return Context(tmp_path / name)

    read = lepton.load(f"{source}:net", context=place("read"))
    adapted = lepton.adapt(read, target="onnxruntime", context=place("adapted")).model
    built = lepton.convert(adapted, target="openvino", context=place("openvino")).model
    with lepton.open(built, target="openvino", threads=1) as session:
        answer = session.run({"image": np.zeros((1, 1, 8, 8), "float32")})
    assert answer["logits"].shape == (1, 10)
    deployed = lepton.deploy(
        Path(adapted.path),
        name="net",
        target="onnxruntime",
        options={"store": str(tmp_path / "store")},
        context=place("deployed"),
    )
    assert deployed.version
    small = strict_hooks.optimize(
        adapted,
        OptimizeRequest("onnxruntime", samples=_calibration(source, tmp_path)),
        place("optimized"),
    )
    assert "adapt" in [s.step for s in small.model.lineage]
    again = strict_hooks.adapt(adapted, AdaptRequest("onnxruntime"), place("again"))
    assert again.changes == ()
    assert strict_hooks.inspect(adapted, InspectRequest(), place("i")).operators


def _calibration(source, tmp_path):
    path = tmp_path / "calibration.npz"
    np.savez(path, image=np.load(source.with_name("held.npz"))["image"][:100])
    return str(path)
