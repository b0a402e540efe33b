"""Models, targets, variants."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core.context import Context
from lepton_core.errors import UsageError
from lepton_core.types import Model, Signature, Target, TensorSpec


def test_signature_reads_well():
    spec = TensorSpec("image", "float32", ("batch", 3, None))
    assert str(spec) == "image: float32[batch, 3, ?]"
    assert str(Signature((spec,), (spec, spec))) == f"({spec}) -> ({spec}, {spec})"


def test_models_are_immutable_and_evolve():
    model = Model("onnx", "/m.onnx")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.path = "/other"
    assert model.evolve(digest="sha256:1") == Model("onnx", "/m.onnx", digest="sha256:1")
    assert model.digest == ""
    with pytest.raises(TypeError):
        model.evolve(colour="red")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("onnxruntime", Target("onnxruntime")),
        (" tflite:android-arm64 ", Target("tflite", "android-arm64")),
        ("coreml:", Target("coreml")),
        ("a:b:c", Target("a", "b:c")),
    ],
)
def test_parse(text, target):
    assert Target.parse(text) == target


@pytest.mark.parametrize("text", ["", "   ", ":cpu"])
def test_parse_refuses_a_target_without_a_name(text):
    with pytest.raises(UsageError) as caught:
        Target.parse(text)
    assert caught.value.code == "LPT-USE-001"


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)


@given(names, st.none() | names)
def test_target_round_trip(name, device):
    target = Target(name, device)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused_before_any_work(tmp_path, seed):
    with pytest.raises(UsageError) as caught:
        Context(tmp_path, seed)
    assert caught.value.code == "LPT-USE-009"
    assert Context(tmp_path, 2**32 - 1).seed == 2**32 - 1
