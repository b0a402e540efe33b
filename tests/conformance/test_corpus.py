"""Every target at every precision it offers, on every kind of model: ``make conformance``.

Long, so not part of ``make test``. Inputs are random here; numbers must agree for any input, and
the verdict that counts is that of the numeric limits.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

MODELS = Path(__file__).with_name("models.py")
SAMPLES = runpy.run_path(str(MODELS.with_name("samples.py")))["SAMPLES"]


@pytest.mark.conformance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_target_gives_the_same_numbers(name, tmp_path):
    np.savez(tmp_path / "samples.npz", **SAMPLES[name]())
    offered = {target: info.precisions for target, info in lepton.targets().items()}
    assert {"onnxruntime", "torch"} <= offered.keys()
    with WorkerPool() as pool:
        _port_all(name, tmp_path, offered, Hooks(Registry(), pool))


def _port_all(name, tmp_path, offered, hooks):
    for target, precisions in offered.items():
        floats = [p for p in precisions if p.startswith(("fp", "bf"))]
        result = lepton.port(
            f"{MODELS}:{name}",
            targets=[target],
            precisions=floats,
            samples=tmp_path / "samples.npz",
            metric="rel_l2",
            out=tmp_path / target,
            latency_seconds=0,
            hooks=hooks,
        )
        for variant in result.variants:
            assert variant.verdict == "pass", f"{target} {variant.precision}: {variant.why}"


@pytest.mark.conformance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["encoder", "tagger", "two_heads"])
def test_litert_computes_int8_within_its_limits(name, tmp_path):
    """Attention, recurrent layers and lookups, of which much stays float."""
    np.savez(tmp_path / "samples.npz", **SAMPLES[name]())
    with WorkerPool() as pool:
        result = lepton.port(
            f"{MODELS}:{name}",
            targets=["tflite"],
            precisions=["int8"],
            samples=tmp_path / "samples.npz",
            metric="rel_l2",
            out=tmp_path / "out",
            latency_seconds=0,
            hooks=Hooks(Registry(), pool),
        )
    (variant,) = [v for v in result.variants if v.precision == "int8"]
    assert variant.passport is not None, variant.why
    assert variant.verdict == "pass", variant.why
    assert variant.passport["variant"]["session"]["stored_values"]["int8"] > 0


def test_every_factory_has_samples():
    import ast

    tree = ast.parse(MODELS.read_text())
    factories = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} - {"_fixed"}
    assert factories == SAMPLES.keys()
