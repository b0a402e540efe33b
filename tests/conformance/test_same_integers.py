"""One recipe, the same integers in every file: read back from each runtime's own artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

MODELS = Path(__file__).with_name("models.py")


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    """The residual network as int8 on both runtimes, from one calibration."""
    folder = tmp_path_factory.mktemp("integers")
    shutil.copy(MODELS, folder / "models.py")
    rows = np.random.default_rng(0).normal(size=(120, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "samples.npz", image=rows)
    with WorkerPool() as pool:
        result = lepton.port(
            f"{folder / 'models.py'}:residual",
            targets=["onnxruntime", "openvino"],
            precisions=["int8"],
            samples=folder / "samples.npz",
            metric="rel_l2",
            out=folder / "out",
            latency_seconds=0,
            hooks=Hooks(Registry(), pool),
        )
    return {variant.target: variant for variant in result.variants}


def onnx_integers(path):
    import onnx
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    return [a for a in arrays if a.dtype == np.int8 and a.size > 1]


def openvino_integers(path):
    """Read the IR in a process of its own, with telemetry off as the plugin has it."""
    from lepton_openvino._telemetry import openvino

    model = openvino().Core().read_model(path)
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    arrays = [op.data for op in constants if op.get_element_type().to_string() == "i8"]
    return [a for a in arrays if a.size > 1]


def test_weights_read_back_from_both_files_are_identical(ported):
    for variant in ported.values():
        assert variant.kept, variant.why
    one = onnx_integers(ported["onnxruntime"].model.path)
    two = openvino_integers(ported["openvino"].model.path)
    assert len(one) >= 4
    assert sorted(a.tobytes() for a in one) == sorted(a.tobytes() for a in two)
    assert all(a.min() >= -127 for a in one)


def test_both_lower_the_same_recipe(ported):
    recipes = {v.model.metadata["recipe"]["digest"] for v in ported.values()}
    assert len(recipes) == 1


def test_both_stay_within_the_limits_of_int8(ported):
    for variant in ported.values():
        assert variant.passport["outputs"]["output"]["rel_l2"] < 0.15
