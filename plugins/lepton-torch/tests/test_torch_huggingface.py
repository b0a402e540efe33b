"""Hugging Face directories: text and vision, offline, safetensors only."""

import json
import os

import numpy as np
import onnxruntime as ort
import pytest

from lepton_core.errors import PluginDependencyError, SourceError
from lepton_core.installing import install_command
from lepton_core.types import Model

transformers = pytest.importorskip("transformers")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def refuse(hooks, path, code):
    with pytest.raises(SourceError) as caught:
        hooks.materialise(Model("huggingface", str(path)))
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return caught.value


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=100, max_position_embeddings=40, **SMALL)
    folder = tmp_path_factory.mktemp("tiny-bert")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(bert, tmp_path):
    """A directory with the tiny BERT's configuration and no weights."""
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    return tmp_path


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def pivot_session(hooks, program):
    return ort.InferenceSession(hooks.pivot(program).model.path)


def test_text_model_with_dynamic_batch_and_sequence(hooks, bert):
    program = hooks.materialise(Model("huggingface", str(bert))).model
    assert str(program.signature) == (
        "(input_ids: int64[batch, sequence], attention_mask: int64[batch, sequence], "
        "token_type_ids: int64[batch, sequence]) -> (logits: float32[batch, 2])"
    )
    assert program.metadata["symbols"]["sequence"] == [1, 40]
    pivot = pivot_session(hooks, program)
    module = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    rng = np.random.default_rng(0)
    import torch

    with hooks.open(program) as session:
        for batch, length in ((1, 1), (1, 5), (2, 16), (5, 40)):
            mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype("int64")
            inputs = {
                "input_ids": rng.integers(0, 100, (batch, length)),
                "attention_mask": mask,
                "token_type_ids": rng.integers(0, 2, (batch, length)),
            }
            with torch.no_grad():
                expected = module(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits
            np.testing.assert_allclose(session.run(inputs)["logits"], expected, atol=1e-5)
            np.testing.assert_allclose(pivot.run(None, inputs)[0], expected, atol=1e-5)


def test_vision_model(hooks, tmp_path):
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    program = hooks.materialise(Model("huggingface", str(tmp_path))).model
    assert str(program.signature.inputs[0]) == "pixel_values: float32[batch, 3, 32, 32]"
    pivot = pivot_session(hooks, program)
    with hooks.open(program) as session:
        for batch in (1, 2, 5):
            pixels = np.random.default_rng(batch).random((batch, 3, 32, 32), "float32")
            expected = session.run({"pixel_values": pixels})["logits"]
            found = pivot.run(None, {"pixel_values": pixels})[0]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_image_size_labels_and_preprocessing_from_the_directory(hooks, tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label={0: "cat", 1: "dog"}
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    model = Model("huggingface", str(tmp_path))
    guessed = hooks.materialise(model)
    assert guessed.model.signature.inputs[0].shape == ("batch", 3, 224, 224)
    assert "224 by 224" in guessed.warnings[0]
    settings = {"crop_size": {"height": 32, "width": 48}, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    program = hooks.materialise(model).model
    assert program.signature.inputs[0].shape == ("batch", 3, 32, 48)
    pivot = hooks.pivot(program).model
    for made in (program, pivot):
        assert made.metadata["labels"] == ["cat", "dog"]
        assert made.metadata["preprocessing"] == settings


def test_name_in_the_local_cache(hooks, bert, tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / "models--lepton--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(bert)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    result = hooks.materialise(Model("huggingface", "lepton/tiny-bert"))
    assert result.model.metadata["source"]["name"] == "lepton/tiny-bert"
    assert result.model.signature.outputs[0].name == "logits"


def test_inspection_names_lines_of_the_library(hooks, bert):
    found = hooks.inspect(Model("huggingface", str(bert)))
    assert found.problems == ()
    assert found.parameters > 0
    assert any("modeling_bert.py:" in use.where for use in found.operators)
    assert not any(os.sep + "site-packages" in use.where for use in found.operators)


def test_neither_directory_nor_cached_name(hooks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "download" in refuse(hooks, "nobody/no-such-model", "LPT-SRC-111").cause
    refuse(hooks, "not a name/../..", "LPT-SRC-111")


def test_damaged_configuration(hooks, copy):
    (copy / "config.json").write_text("{")
    refuse(hooks, copy, "LPT-SRC-112")
    (copy / "config.json").write_text("[]")
    refuse(hooks, copy, "LPT-SRC-112")


def test_remote_code_and_unknown_architectures(hooks, copy):
    change(copy, architectures=["NoSuchModel"])
    refuse(hooks, copy, "LPT-SRC-113")
    change(copy, auto_map={"AutoModel": "modeling.Evil"})
    assert "own code" in refuse(hooks, copy, "LPT-SRC-113").message


def test_pickled_weights_are_refused(hooks, copy):
    (copy / "pytorch_model.bin").write_bytes(b"")
    assert "save_pretrained" in refuse(hooks, copy, "LPT-SRC-114").remedy


def test_no_weights(hooks, copy):
    refuse(hooks, copy, "LPT-SRC-115")


def test_damaged_or_partial_weights(hooks, bert, copy):
    from safetensors.numpy import load_file, save_file

    path = copy / "model.safetensors"
    path.write_bytes((bert / "model.safetensors").read_bytes()[:500])
    refuse(hooks, copy, "LPT-SRC-116")
    weights = load_file(bert / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, path, metadata={"format": "pt"})
    assert "classifier.weight" in refuse(hooks, copy, "LPT-SRC-116").cause


def test_kind_without_example_inputs(hooks, tmp_path):
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "factory" in refuse(hooks, tmp_path, "LPT-SRC-117").remedy


def test_transformers_missing(hooks, bert, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginDependencyError) as caught:
        hooks.materialise(Model("huggingface", str(bert)))
    assert caught.value.remedy == install_command("lepton-torch[huggingface]")
