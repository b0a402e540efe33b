"""Every distribution installs from its own wheel, alone, and brings no more than it declares."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from devtools import wheels as building
from devtools.console import SetupError
from devtools.projects import ROOT, discover, normalized

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


PROGRAM = """
import importlib, importlib.metadata as metadata, json, sys
name, package = sys.argv[1:]
file = importlib.import_module(package).__file__
groups = [e for e in metadata.distribution(name).entry_points if e.group.startswith("lepton.")]
for entry in groups:
    entry.load()
listed = [
    (d.metadata["Name"], d.read_text("direct_url.json") is not None)
    for d in metadata.distributions()
]
print(json.dumps({"file": file, "loaded": [e.name for e in groups], "distributions": listed}))
"""


def test_every_distribution_is_covered():
    assert {case.name for case in CASES} == set(discover())


@pytest.fixture(scope="module")
def alone(clean_env):
    """Return a function: the environment of a case, and what its interpreter says; asked once."""
    found = {}

    def ask(case):
        if case not in found:
            env = clean_env(case.name, extras=case.extras)
            said = env.run(["-I", "-c", PROGRAM, case.name, case.package]).stdout
            found[case] = env, json.loads(said.splitlines()[-1])
        return found[case]

    return ask


@pytest.mark.parametrize("case", CASES, ids=str)
def test_installs_alone(case, alone):
    env, said = alone(case)
    found = {normalized(name) for name, _ in said["distributions"]}
    assert case.name in found
    assert FRAMEWORKS & found == case.brings

    where = Path(said["file"])
    assert env.folder in where.parents, "imported from the wheel, not from the tree"
    assert ROOT not in where.parents


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_party_comes_from_local_wheels(case, alone, wheelhouse):
    _, said = alone(case)
    direct = {name for name, is_direct in said["distributions"] if is_direct}
    ours = {wheel.name for wheel in building.closure([case.name], dict(wheelhouse))}
    assert direct == ours


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plugin_entry_points_load(case, alone):
    """What a wheel announces in our groups exists in it and imports without its backend's help."""
    _, said = alone(case)
    is_plugin = case.name not in ("lepton-ai", "lepton-kernels")
    assert bool(said["loaded"]) is is_plugin


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
