"""One recipe of int4 weights, the same integers in the files of both runtimes, by ``port``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import recipe as recipes
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("same-blocks"),  # one worker ports
]

MODELS = Path(__file__).with_name("models.py")


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    """A wide perceptron as fp32 and int4 on both runtimes, from one rounding."""
    folder = tmp_path_factory.mktemp("blocks")
    shutil.copy(MODELS, folder / "models.py")
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(64, 64)) / 8
    rows = (rng.normal(size=(300, 64)) @ mix).astype(np.float32)
    np.savez(folder / "samples.npz", input=rows)
    with WorkerPool() as pool:
        result = lepton.port(
            f"{folder / 'models.py'}:wide",
            targets=["onnxruntime", "openvino"],
            precisions=["fp32", "int4"],
            samples=folder / "samples.npz",
            metric="rel_l2",
            out=folder / "out",
            latency_seconds=0,
            hooks=Hooks(Registry(), pool),
        )
    return {(v.target, v.precision): v for v in result.variants}


def test_both_are_kept_because_they_are_smaller(ported):
    for target in ("onnxruntime", "openvino"):
        small, plain = ported[target, "int4"], ported[target, "fp32"]
        assert small.kept, small.why
        assert small.verdict == "pass", small.why
        assert "smaller than the float model" in small.why
        sizes = [v.passport["variant"]["size_bytes"] for v in (plain, small)]
        assert sizes[0] > 4 * sizes[1]
        assert small.passport["variant"]["storage_precision"] == "int4"


def test_one_recipe_says_what_both_hold(ported):
    from lepton_onnx import pivot, qdq
    from lepton_openvino._telemetry import openvino

    one, two = (ported[t, "int4"].model for t in ("onnxruntime", "openvino"))
    assert one.metadata["recipe"]["digest"] == two.metadata["recipe"]["digest"]
    texts = {(Path(m.path).parent / "recipe.json").read_bytes() for m in (one, two)}
    assert len(texts) == 1
    place = Path(one.path).parent / "recipe.json"
    recipe = recipes.read(place)
    arrays = recipes.load_arrays(recipe, place)
    assert {entry.method for entry in recipe.blocks.values()} == {"gptq"}
    stored = qdq.read_blocks(pivot.load(one.path))
    constants = {
        op.get_friendly_name(): op
        for op in openvino().Core().read_model(two.path).get_ops()
        if op.get_type_name() == "Constant"
    }
    assert set(stored) == set(recipe.blocks)
    for name, entry in recipe.blocks.items():
        codes = np.moveaxis(arrays[entry.integers], entry.axis, 1)
        assert np.array_equal(stored[name].codes, codes)
        width = 4 if entry.bits == 4 else 8
        there = constants[f"{name}/uint{width}"]
        assert there.get_output_element_type(0).get_type_name() == f"u{width}"
        scales = np.array(constants[f"{name}/scale"].data).ravel()
        assert np.array_equal(scales, arrays[entry.scale].ravel())
        packed = [np.array(there.data), scales, *()]
        found = _unpacked(packed[0], width, codes.shape)
        assert np.array_equal(found.astype(np.int16) - 2 ** (width - 1), codes)


def _unpacked(data, width, shape):
    """Return one integer a byte, whether OpenVINO gives constants of 4 bits packed or not."""
    flat = np.asarray(data, np.uint8).ravel()
    if flat.size != shape[0] * shape[1]:
        flat = np.stack([flat & 15, flat >> 4], axis=-1).ravel()
    return flat.reshape(shape)


def test_both_compute_nearly_the_same(ported):
    outputs = [ported[t, "int4"].passport["outputs"] for t in ("onnxruntime", "openvino")]
    for found in outputs:
        (one,) = found.values()
        assert one["rel_l2"] < 0.1
