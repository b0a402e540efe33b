"""One recipe, the same integers in every file: read back from each runtime's own artifact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

pytestmark = pytest.mark.xdist_group("same-integers")  # one worker ports

MODELS = Path(__file__).with_name("models.py")


SERVERS = ("onnxruntime", "openvino")
ALL = pytest.param((*SERVERS, "tflite"), marks=pytest.mark.conformance, id="all")
"""LiteRT's converter takes longest; its plugin's own tests hold a smaller file to the same."""


@pytest.fixture(scope="module", params=[pytest.param(SERVERS, id="servers"), ALL])
def ported(request, tmp_path_factory):
    """The residual network as int8 on each runtime, from one calibration."""
    folder = tmp_path_factory.mktemp("integers")
    shutil.copy(MODELS, folder / "models.py")
    rows = np.random.default_rng(0).normal(size=(120, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "samples.npz", image=rows)
    with WorkerPool() as pool:
        result = lepton.port(
            f"{folder / 'models.py'}:residual",
            targets=request.param,
            precisions=["int8"],
            samples=folder / "samples.npz",
            metric="rel_l2",
            out=folder / "out",
            latency_seconds=0,
            hooks=Hooks(Registry(), pool),
        )
    return {variant.target: variant for variant in result.variants}


PARTS = ("/int8", "/int32", "/scale", "/zero_point")
"""What the lowering of a value stores beside each other, by the end of its name."""


def onnx_numbers(path):
    """Return every stored integer, scale and zero point of an ONNX file by name."""
    import onnx
    from onnx import numpy_helper

    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return {name: array for name, array in found.items() if name.endswith(PARTS)}


def openvino_numbers(path):
    """Return those of an IR; values that share a constant name it once."""
    from lepton_openvino._telemetry import openvino

    model = openvino().Core().read_model(path)
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    found = {op.get_friendly_name(): np.array(op.data) for op in constants}
    return {name: array for name, array in found.items() if name.endswith(PARTS)}


def test_numbers_read_back_from_both_files_are_identical(ported):
    for variant in ported.values():
        assert variant.kept, variant.why
    one = onnx_numbers(ported["onnxruntime"].model.path)
    two = openvino_numbers(ported["openvino"].model.path)
    weights = {name for name in one if name.endswith(("/int8", "/int32"))}
    assert len(weights) >= 8
    assert weights == {name for name in two if name.endswith(("/int8", "/int32"))}
    for name, array in two.items():
        assert array.dtype == one[name].dtype, name
        assert array.tobytes() == one[name].tobytes(), name
    integers = [array for name, array in one.items() if name.endswith("/int8")]
    assert all(array.min() >= -127 for array in integers)


def test_the_recipe_says_the_same_numbers(ported):
    """The files hold what the recipe says, and OpenVINO's ranges are those scales unrolled."""
    folder = Path(ported["onnxruntime"].model.path).parent
    recipe = json.loads((folder / "recipe.json").read_text())
    one = onnx_numbers(ported["onnxruntime"].model.path)
    two = openvino_numbers(ported["openvino"].model.path)
    seen = 0
    for name, tensor in recipe["tensors"].items():
        scale, zero = f"{name}/scale", f"{name}/zero_point"
        if scale not in one:
            continue  # not quantized on its own
        seen += 1
        wanted = np.float32(tensor["scale"])
        shift = 128 if one[zero].dtype == np.uint8 else 0
        for numbers in (one, two):
            if scale in numbers:
                assert np.array_equal(np.ravel(numbers[scale]), np.ravel(wanted)), name
            if zero in numbers:
                assert set(np.ravel(numbers[zero]).tolist()) == {tensor["zero_point"] + shift}, name
    assert seen >= 8


@pytest.mark.parametrize("ported", [ALL], indirect=True)
def test_litert_holds_the_same_integers_and_scales(ported):
    """Read back from the .tflite file: the weights' axes stand in another order there."""
    import onnx

    from lepton_core import recipe as recipes
    from lepton_onnx import qdq
    from lepton_tflite._read import read_back

    ours = read_back(ported["tflite"].model.path)
    theirs = qdq.read_back(onnx.load(ported["onnxruntime"].model.path))
    recipe = recipes.read(Path(ported["tflite"].model.path).parent / "recipe.json")
    integers = {name: stored.integers for name, stored in theirs.items()}
    assert qdq.compare(recipe, ours, integers) == []
    shared = [name for name, stored in theirs.items() if stored.integers is not None]
    assert len(shared) >= 8
    for name in shared:
        assert ours[name].integers.dtype == theirs[name].integers.dtype
        assert ours[name].integers.tobytes() == theirs[name].integers.tobytes(), name
        assert np.array_equal(ours[name].scale, theirs[name].scale), name


def test_all_lower_the_same_recipe(ported):
    recipes = {v.model.metadata["recipe"]["digest"] for v in ported.values()}
    assert len(recipes) == 1


def test_all_stay_within_the_limits_of_int8(ported):
    for variant in ported.values():
        assert variant.passport["outputs"]["output"]["rel_l2"] < 0.15
