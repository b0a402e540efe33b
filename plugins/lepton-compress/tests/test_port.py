"""int8 as one precision of the main job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import recipe as recipes
from lepton_core.errors import UsageError


def find_source(trained):
    place = Path(trained("cnn").path)
    return str(next(p / "net.pt2" for p in place.parents if (p / "net.pt2").is_file()))


def test_int8_is_kept_proved_and_smaller(trained, held_npz, tmp_path):
    result = lepton.port(
        find_source(trained),
        targets=["onnxruntime"],
        precisions=("fp32", "fp16", "int8"),
        samples=held_npz,
        max_drop=0.005,
        out=tmp_path / "out",
    )
    by = {v.precision: v for v in result["onnxruntime"].variants}
    small = by["int8"]
    assert small.kept
    assert small.verdict == "pass"
    assert "smaller than the float model" in small.why
    sizes = {p: v.passport["variant"]["size_bytes"] for p, v in by.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    assert small.passport["samples"]["coverage"] > 0.8
    assert small.passport["samples"]["split"]["calibration"]["n"] == 299
    assert "int8" in small.passport["variant"]["execution_precision"]
    recipe = recipes.read(Path(small.model.path).parent / "recipe.json")
    assert recipe.calibration.samples == 299
    assert small.model.metadata["recipe"]["digest"] == recipe.digest
    assert small.model.lineage[-1].request["recipe"] == recipe.digest
    with lepton.open(small) as session:
        image = np.load(held_npz)["image"][:4]
        assert session.run({"image": image})["logits"].shape == (4, 10)


def test_without_samples_int8_is_dynamic_and_weak(trained, tmp_path):
    result = lepton.port(
        find_source(trained),
        targets=["onnxruntime"],
        precisions=("fp32", "int8"),
        max_drop=0.5,  # on noise, where classes lie side by side
        out=tmp_path / "out",
        latency_seconds=0,
    )
    small = result["onnxruntime"].variants[1]
    assert small.verdict == "weak"
    recipe = recipes.read(Path(small.model.path).parent / "recipe.json")
    assert recipe.scheme == "int8-dynamic"
    assert any("No samples" in text for text in small.passport["warnings"])


def test_auto_is_a_precision_of_the_main_job(trained, held_npz, tmp_path):
    result = lepton.port(
        find_source(trained),
        targets=["onnxruntime"],
        precisions=("fp32", "auto"),
        samples=held_npz,
        max_drop=0.02,
        out=tmp_path / "out",
        latency_seconds=0.05,
    )
    chosen = result["onnxruntime"].variants[1]
    assert chosen.kept
    assert chosen.verdict == "pass"


def test_samples_that_reach_little_of_what_was_calibrated_are_weak(
    trained, held_npz, tmp_path, monkeypatch
):
    # The held-out rows are nearly black; calibration saw full contrast.
    from lepton_core import _proof

    choose = _proof.choose_rows

    def darkened(given, model, seed):
        calibration, held_out = choose(given, model, seed)
        held_out.inputs["image"] *= np.float32(0.02)
        return calibration, held_out

    monkeypatch.setattr("lepton_core._port_job.choose_rows", darkened)
    result = lepton.port(
        find_source(trained),
        targets=["onnxruntime"],
        precisions=("int8",),
        samples=held_npz,
        max_drop=1.0,
        out=tmp_path / "out",
        latency_seconds=0,
    )
    passport = result["onnxruntime"].variants[0].passport
    assert passport["samples"]["coverage"] < 0.5
    assert any("calibrated ranges" in r for r in passport["verdict"]["reasons"])
    assert passport.verdict != "pass"


def test_sparse_and_palettes_are_precisions_of_the_main_job(trained, held_npz, tmp_path):
    result = lepton.port(
        find_source(trained),
        targets=["onnxruntime"],
        precisions=("fp32", "sparse", "palette"),
        samples=held_npz,
        max_drop=0.05,
        out=tmp_path / "out",
        latency_seconds=0,
        compression={"sparsity": "auto", "palette": 4, "group": 8},
    )
    plain, sparse, palette = result["onnxruntime"].variants
    sizes = [v.passport["variant"]["size_bytes"] for v in (plain, sparse, palette)]
    assert sizes[2] < sizes[1] < sizes[0]
    for one in (sparse, palette):
        assert one.kept
        assert one.verdict == "pass"
    recipe = recipes.read(Path(sparse.model.path).parent / "recipe.json")
    assert recipe.pruned
    assert recipes.read(Path(palette.model.path).parent / "recipe.json").precision == "palette4"


def test_options_that_no_precision_heeds_are_refused(trained, held_npz, tmp_path):
    for precisions, given in ((("fp32", "int8"), "sparsity"), (("sparse",), "palette")):
        with pytest.raises(UsageError) as failed:
            lepton.port(
                find_source(trained), targets=["onnxruntime"], precisions=precisions,
                samples=held_npz, out=tmp_path / "out", compression={given: 0.5},
            )  # fmt: skip
        assert failed.value.code == "LPT-USE-014"
        assert given in failed.value.message
