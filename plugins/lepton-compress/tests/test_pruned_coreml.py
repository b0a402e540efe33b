"""Palettes and pruned weights of a trained network, down to a Core ML package.

What runs the packages is a reference interpreter: the numbers are those of the file, and times say
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import recipe as recipes
from lepton_core.errors import LeptonError
from lepton_onnx import pivot
from lepton_onnx.sparse import palette_values, unpack_mask

pytest.importorskip("lepton_coreml", reason="lepton-coreml is not installed")


@pytest.fixture
def few(digits, tmp_path):
    images, labels = digits
    path = tmp_path / "few.npz"
    np.savez(path, image=images[900:1200], labels=labels[900:1200])
    return str(path)


def weight_file(model):
    return Path(model.path, "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def weights_of(model):
    from onnx import numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in pivot.load(model.path).graph.initializer}


def right(model, digits):
    with lepton.open(model, target="coreml") as session:
        made = [session.run({"image": digits[0][i : i + 64]})["logits"] for i in (1200, 1264, 1328)]
    return float((np.concatenate(made).argmax(1) == digits[1][1200:1392]).mean())


@pytest.mark.conformance
def test_palettes_of_a_trained_network(trained, context, tmp_path, capfd):
    from lepton_core.cli import main
    from lepton_coreml._mil._package import open_package
    from lepton_coreml._same_small import read_small

    out = tmp_path / "out"
    base = trained("cnn")
    code = main(
        ["optimize", base.path, "--to", "coreml:ios17", "--palette", "4",
         "--out", str(out), "--json"]
    )  # fmt: skip
    text = capfd.readouterr().out
    assert code == 0, text
    record = json.loads(text)
    package = next(out.rglob("*.mlpackage"))
    recipe_path = next(out.rglob("*recipe.json"))
    recipe = recipes.read(recipe_path)
    arrays = recipes.load_arrays(recipe, recipe_path)
    program = open_package(package).program()
    assert program.version == 8, "of iOS 17"
    stored = read_small(program).palettes
    assert set(stored) == set(recipe.palettes)
    assert stored
    for name, entry in recipe.palettes.items():
        indices, tables, _ = stored[name]
        assert np.array_equal(indices, arrays[entry.indices])
        assert set(map(bytes, tables)) == set(map(bytes, arrays[entry.palette]))
    plain = lepton.convert(base, target="coreml", device="ios18", context=context).model
    small = package / "Data/com.apple.CoreML/weights/weight.bin"
    assert small.stat().st_size < weight_file(plain) / 4.5
    assert record["facts"]["verdict"] == "weak", "nothing was measured"


@pytest.mark.conformance
@pytest.mark.parametrize(
    ("precision", "options", "ratio"),
    [
        ("sparse", {"pattern": "2:4"}, 1.7),
        ("palette", {"palette": 4, "group": 16}, 4.5),
        ("palette", {"palette": 4, "group": 16, "sparsity": 0.6}, 5),
        ("int8", {"sparsity": 0.3}, 4),
    ],
)
def test_pruned_weights_of_a_trained_network(
    precision, options, ratio, trained, digits, few, context_of
):
    plain_palette = options.keys() == {"palette", "group"}
    base, measured = trained("cnn"), precision == "int8" or plain_palette
    plain = lepton.convert(base, target="coreml", context=context_of("plain")).model
    made = lepton.optimize(
        base, target="coreml", device="ios18", precision=precision, options=options,
        timing_seconds=0.0,
        samples=few if measured else None,
        max_drop=0.05 if measured else None, context=context_of("made"),
    )  # fmt: skip
    assert made.model is not None
    recipe = recipes.read(made.recipe)
    assert bool(recipe.pruned) != plain_palette
    assert made.facts["verdict"] == ("pass" if measured else "weak")
    assert made.model.metadata["device"] == "ios18"
    assert weight_file(plain) > ratio * weight_file(made.model)
    assert right(made.model, digits) > right(plain, digits) - 0.1


@pytest.mark.conformance
def test_what_the_package_computes_is_what_the_recipe_says(trained, digits, context_of):
    """The float graph with the recipe's values in it, run by ONNX's own evaluator."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    base = trained("mlp")
    made = lepton.optimize(
        base, timing_seconds=0.0, target="coreml", device="ios17", precision="palette",
        options={"palette": 3, "sparsity": 0.5}, context=context_of("made"),
    )  # fmt: skip
    assert made.model.metadata["device"] == "ios17"
    recipe = recipes.read(made.recipe)
    arrays = recipes.load_arrays(recipe, made.recipe)
    proto = pivot.load(base.path)
    for tensor in proto.graph.initializer:
        entry = recipe.palettes.get(tensor.name)
        if entry is not None:
            values = palette_values(arrays[entry.indices], arrays[entry.palette], entry)
            mask = unpack_mask(tensor.name, values.shape, recipe.pruned[tensor.name], arrays)
            assert not values[~mask].any()
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    feed = {"image": digits[0][:50]}
    wanted = ReferenceEvaluator(proto).run(None, feed)[0]
    with lepton.open(made.model, target="coreml") as session:
        found = session.run(feed)["logits"]
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_groups_are_refused_for_ios_17(trained, context_of):
    with pytest.raises(LeptonError) as caught:
        lepton.optimize(
            trained("mlp"), target="coreml", device="ios17", precision="palette",
            options={"palette": 4, "group": 16}, timing_seconds=0.0, context=context_of("made"),
        )  # fmt: skip
    assert caught.value.code == "LPT-OPT-040"
    assert "palettes of 4 bits for every 16 channels" in caught.value.cause
    assert "iOS 18" in caught.value.cause, caught.value.cause
