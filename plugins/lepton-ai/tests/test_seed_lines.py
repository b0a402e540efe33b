"""The lines of the documentation run to the letter, and their numbers hold."""

from __future__ import annotations

import json
import shutil
import traceback

import numpy as np
import pytest

import lepton_core
from lepton_ai import (
    ModelAdapter,
    ModelAdjuster,
    ModelConverter,
    ModelDeployer,
    ModelMigrator,
    ModelOptimizer,
)
from lepton_core.artifacts import artifact_size
from lepton_core.built import find_built
from lepton_core.cli import main
from lepton_core.errors import OptimizeError, SourceError

pytestmark = [pytest.mark.xdist_group("seed-lines"), pytest.mark.timeout(600)]

PLACES = {
    "adapted_model": "adapted",
    "converted_model": "converted-fp32",
    "optimized_model": "optimized-auto",
}


@pytest.fixture(scope="module")
def truth(home):
    """Logits of the source on all samples, by transformers itself."""
    import torch
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(home.model).eval()
    with torch.no_grad():
        tokens = {name: torch.from_numpy(array) for name, array in home.tokens().items()}
        return model(**tokens).logits.numpy()


def answers(model, home):
    with lepton_core.open(model, threads=1) as session:
        return session.run(home.tokens())["logits"]


def rel_l2(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_results_stand_where_the_documentation_says(seed):
    root = seed.folder / "lepton-ai-out/bert-base-cased/onnxruntime"
    assert {name: path.parent for name, path in seed.paths.items()} == {
        name: root / place for name, place in PLACES.items()
    }
    assert [p.name for p in seed.folder.iterdir()] == ["lepton-ai-out"]
    assert sorted(p.name for p in root.iterdir()) == sorted(PLACES.values())
    assert (root / "adapted/model.pt2").is_file()
    assert (root / "converted-fp32/origin/origin.json").is_file()
    assert (root / "optimized-auto/recipe.json").is_file()


def test_without_a_terminal_only_the_weak_verdict_is_said(seed):
    assert seed.out == ""
    said = [line for line in seed.err.splitlines() if not line.startswith("  ")]
    assert len(said) == 1, seed.err
    assert said[0].endswith(
        "ModelWarning: No samples: nothing was calibrated or measured; verdict weak."
    )
    last = len(seed.lines.splitlines())
    assert said[0].startswith(f"<string>:{last}:"), "at the line that called"


@pytest.mark.parametrize("name", ["adapted_model", "converted_model"])
def test_adapted_and_converted_answer_like_the_source(seed, home, truth, name):
    assert home.accuracy > 0.85
    assert rel_l2(answers(seed.paths[name], home), truth) <= 1e-4


def test_the_optimized_model_is_smaller_and_within_the_limits(seed, home, truth):
    converted, optimized = (
        lepton_core.load(seed.paths[name]) for name in ("converted_model", "optimized_model")
    )
    assert artifact_size(optimized) < 0.5 * artifact_size(converted)
    found = answers(optimized, home)
    assert rel_l2(found, truth) <= 0.15
    cosine = (found * truth).sum() / np.linalg.norm(found) / np.linalg.norm(truth)
    assert cosine >= 0.98
    drop = np.mean(truth.argmax(1) == home.labels) - np.mean(found.argmax(1) == home.labels)
    assert drop <= 0.01
    marker = json.loads((seed.paths["optimized_model"].parent / "lepton.json").read_text())
    assert (marker["name"], marker["precision"]) == ("bert-base-cased", "int8")
    assert marker["facts"]["verdict"] == "weak"


def test_lineage_leads_back_to_the_source(seed):
    steps = [step.step for step in lepton_core.load(seed.paths["optimized_model"]).lineage]
    assert steps[-1].startswith("convert pivot -> onnxruntime")
    assert any("pivot" in step for step in steps[:-1])
    adapted = lepton_core.load(seed.paths["adapted_model"])
    assert adapted.format == "torch.export"
    assert adapted.metadata["source"]["name"] == "bert-base-cased"
    parents = {s.parent for s in lepton_core.load(seed.paths["converted_model"]).lineage}
    assert adapted.digest in parents


@pytest.mark.conformance
def test_the_adapted_model_is_converted_from_its_directory_and_its_file(seed, here, home, truth):
    adapted = seed.paths["adapted_model"]
    converter = ModelConverter("openvino")
    made = converter.convert(adapted.parent)
    assert rel_l2(answers(made, home), truth) <= 1e-4
    assert made.path == str(
        here / "lepton-ai-out/bert-base-cased/openvino/converted-fp32/model.xml"
    )
    alone = shutil.copy(adapted, here / "alone.pt2")  # without its marker it is read anew
    again = converter.convert(alone)
    assert again.path == str(here / "lepton-ai-out/alone/openvino/converted-fp32/model.xml")
    assert again.digest == made.digest


@pytest.mark.parametrize("given", ["object", "directory", "file"])
def test_the_converted_model_is_optimized_however_it_is_given(seed, here, given, monkeypatch):
    path = seed.paths["converted_model"]
    what = {"object": lepton_core.load(path), "directory": path.parent, "file": str(path)}[given]
    optimizer = ModelOptimizer(what, options={"scheme": "weight-only"}, out="weights")
    with pytest.warns(match="verdict weak"):
        optimized = optimizer.optimize()
    assert find_built("weights").target == "onnxruntime"
    assert optimizer.result.model == optimized
    assert optimizer.result.recipe == str(here / "weights/recipe.json")
    assert artifact_size(optimized) < 0.5 * artifact_size(lepton_core.load(path))
    with pytest.raises(OptimizeError) as caught:
        ModelOptimizer(optimized).optimize()
    assert caught.value.code == "LPT-OPT-010"


def test_with_samples_the_choice_is_measured(seed, here, home, truth):
    tokens = {**home.tokens(), "labels": home.labels}
    optimizer = ModelOptimizer(seed.paths["converted_model"], samples=tokens, max_drop=0.01)
    optimized = optimizer.optimize()
    assert "top1" in optimizer.result.why
    found = answers(optimized, home)
    assert rel_l2(found, truth) <= 0.15
    assert artifact_size(optimized) < artifact_size(lepton_core.load(seed.paths["converted_model"]))
    scheme = json.loads((here / optimizer.result.recipe).read_text())["scheme"]
    assert scheme == "int8-static"


def test_an_optimized_model_is_lowered_for_another_target_by_its_recipe(seed, here, home, truth):
    made = ModelConverter("openvino").convert(seed.paths["optimized_model"].parent, out="ov")
    first = lepton_core.load(seed.paths["optimized_model"])
    assert made.metadata["recipe"]["digest"] == first.metadata["recipe"]["digest"]
    assert find_built("ov").precision == "int8"
    assert rel_l2(answers(made, home), answers(first, home)) <= 1e-3
    assert rel_l2(answers(made, home), truth) <= 0.15


def test_deployed_it_answers_by_name_is_adjusted_and_migrated(seed, here, home, truth):
    data = str(home.path / "samples.npz")
    # OpenVINO does not promise dynamic recipes, which is what there is without samples.
    optimized = ModelOptimizer(seed.paths["converted_model"], samples=data).optimize()
    name = ModelDeployer(optimized, store="store").deploy().name
    assert name == "bert-base-cased"

    def check(runtime):
        with lepton_core.deployment(f"{name}@production", store="store") as deployed:
            assert rel_l2(deployed.run(home.tokens())["logits"], truth) <= 0.15
            assert deployed.facts["runtime"] == runtime

    check("onnxruntime")
    adjusted = ModelAdjuster(name, store="store", samples=data).adjust()
    assert adjusted.name == name
    assert adjusted.facts["observations"]
    check("onnxruntime")
    quick = {"watch": 0.0}
    moved = ModelMigrator(name, "openvino", samples=data, store="store", options=quick).migrate()
    assert moved.outcome == "done", moved
    check("openvino")


@pytest.mark.conformance
def test_the_command_line_takes_the_directories(seed, here, home, capsys):
    adapted, converted, optimized = (str(path.parent) for path in seed.paths.values())
    data = str(home.path / "samples.npz")
    assert main(["port", adapted, "--to", "onnxruntime", "--data", data, "--max-drop", "0.01"]) == 0
    assert main(["port", converted, "--to", "openvino", "--data", data, "--out", "second"]) == 0
    assert main(["convert", optimized, "--to", "openvino", "--out", "third"]) == 0
    deploy = ["deploy", optimized, "--to", "onnxruntime", "--name", "bert", "--store", "store"]
    assert main(deploy) == 0, capsys.readouterr().err


def test_a_name_that_is_not_in_the_cache_says_how_to_get_it(here, monkeypatch):
    adapter = ModelAdapter("nobody/no-such-bert")
    with pytest.raises(SourceError) as caught:
        adapter.adapt()
    assert caught.value.code == "LPT-SRC-111"
    assert "hf download nobody/no-such-bert" in caught.value.remedy
    assert "directory" in caught.value.remedy
    assert not [*here.iterdir()]
    assert caught.value.__cause__ is None, "the worker's stack is not shown"
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 2
    monkeypatch.setenv("LEPTON_DEBUG", "1")
    with pytest.raises(SourceError) as caught:
        adapter.adapt()
    assert "_huggingface.py" in str(caught.value.__cause__)
