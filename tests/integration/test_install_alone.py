"""Every distribution installs from its own wheel, alone, and brings no more than it declares."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from devtools import wheels as building
from devtools.console import SetupError
from devtools.projects import ROOT, discover

# One worker makes the environments, so that none is made twice.
pytestmark = [pytest.mark.xdist_group("clean-environments"), pytest.mark.timeout(900)]

FRAMEWORKS = frozenset(
    {
        "torch", "onnx", "onnxruntime", "onnxscript", "openvino", "transformers", "ai-edge-litert",
        "litert-torch", "coremltools",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Alone:
    """A distribution with what must come with it; every other framework must stay away."""

    name: str
    package: str
    brings: frozenset[str] = frozenset()
    extras: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{','.join(self.extras)}]" if self.extras else self.name


CASES = (
    Alone("lepton-ai", "lepton_ai", FRAMEWORKS - {"ai-edge-litert", "litert-torch", "coremltools"}),
    Alone("lepton-kernels", "lepton_kernels"),
    Alone("lepton-core", "lepton_core"),
    Alone("lepton-compress", "lepton_compress", frozenset({"onnx"})),
    Alone(
        "lepton-coreml", "lepton_coreml", frozenset({"torch", "onnx", "onnxscript", "coremltools"})
    ),
    Alone("lepton-onnx", "lepton_onnx", frozenset({"onnx"})),
    Alone("lepton-onnxruntime", "lepton_onnxruntime", frozenset({"onnx"})),
    Alone(
        "lepton-onnxruntime",
        "lepton_onnxruntime",
        frozenset({"onnx", "onnxruntime"}),
        extras=("cpu",),
    ),
    Alone("lepton-openvino", "lepton_openvino", frozenset({"onnx", "openvino"})),
    Alone("lepton-tflite", "lepton_tflite", frozenset({"onnx", "ai-edge-litert"})),
    Alone("lepton-torch", "lepton_torch", frozenset({"torch", "onnx", "onnxscript"})),
)


def test_every_distribution_is_covered():
    assert {case.name for case in CASES} == set(discover())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_installs_alone(case, clean_env):
    env = clean_env(case.name, extras=case.extras)
    found = env.packages()
    assert case.name in found
    assert FRAMEWORKS & found.keys() == case.brings

    where = env.run(["-I", "-c", f"import {case.package} as p; print(p.__file__)"]).stdout.strip()
    assert env.folder in Path(where).parents, "imported from the wheel, not from the tree"
    assert ROOT not in Path(where).parents


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_party_comes_from_local_wheels(case, clean_env, wheelhouse):
    env = clean_env(case.name, extras=case.extras)
    listing = (
        "import importlib.metadata as m\n"
        "for d in m.distributions():\n"
        "    print(d.metadata['Name'], d.read_text('direct_url.json') is not None)"
    )
    lines = env.run(["-I", "-c", listing]).stdout.splitlines()
    direct = {name for name, is_direct in map(str.split, lines) if is_direct == "True"}
    ours = {wheel.name for wheel in building.closure([case.name], dict(wheelhouse))}
    assert direct == ours


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plugin_entry_points_load(case, clean_env):
    """What a wheel announces in our groups exists in it and imports without its backend's help."""
    env = clean_env(case.name, extras=case.extras)
    program = (
        "import importlib.metadata as m\n"
        f"for e in m.distribution('{case.name}').entry_points:\n"
        "    if e.group.startswith('lepton.'):\n"
        "        e.load(); print(e.group, e.name)"
    )
    loaded = env.run(["-I", "-c", program]).stdout.split("\n")
    is_plugin = case.name not in ("lepton-ai", "lepton-kernels")
    assert bool([line for line in loaded if line]) is is_plugin


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wheel_carries_types_and_licence(case, wheelhouse):
    with zipfile.ZipFile(wheelhouse[case.name].path) as archive:
        names = archive.namelist()
    assert f"{case.package}/py.typed" in names
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in names)
    assert not [name for name in names if "/tests/" in name or name.startswith("tests/")]


def test_kernels_wheel_is_abi3(wheelhouse):
    assert "-cp311-abi3-" in wheelhouse["lepton-kernels"].path.name


def test_first_party_ranges_share_one_form(wheelhouse):
    ranges = {
        requirement
        for wheel in wheelhouse.values()
        for requirement in wheel.requires
        if requirement.startswith("lepton-")
    }
    assert ranges
    for requirement in ranges:
        name, bounds = re.match(r"([a-z-]+)(?:\[[a-z,]+\])?([^;]*)", requirement).groups()
        assert name in wheelhouse
        assert sorted(bounds.split(",")) == ["<1", ">=0.1"]


def test_a_missing_first_party_wheel_is_refused(wheelhouse):
    without_core = {name: wheel for name, wheel in wheelhouse.items() if name != "lepton-core"}
    with pytest.raises(SetupError, match="no wheel of lepton-core"):
        building.closure(["lepton-onnx"], without_core)
