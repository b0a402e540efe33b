"""Models, targets, variants."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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


# --- what a REPL shows ------------------------------------------------------------------------


def test_results_are_shown_in_short_and_keep_their_fields():
    from lepton_core.passport import Passport
    from lepton_core.porting import PortResult
    from lepton_core.types import AdjustResult, MigrateResult, Variant

    long = {
        "measured": ["number"] * 5000,
        "verdict": {"verdict": "pass", "why": "", "proved": True},
    }
    model = Model("onnxruntime", "/out/model.onnx", metadata=long)
    variants = (
        Variant("onnxruntime", "fp32", model, Passport(long), "pass", True, "as measured"),
        Variant("onnxruntime", "int8", None, Passport(long), "pass", False, "kept fp32 instead"),
    )
    result = PortResult(long, variants, Path("out"))
    assert repr(result) == (
        "PortResult(ok=True, out='out', variants=[onnxruntime fp32: pass, kept, "
        "onnxruntime int8: pass, not kept])"
    )
    assert result.variants[0].passport == long and result.source == long
    assert repr(variants[0]) == (
        "Variant(target='onnxruntime', precision='fp32', verdict='pass', kept=True, "
        "path='/out/model.onnx')"
    )
    assert len(repr(result["onnxruntime"])) < 300
    change = {"id": "c1", "state": "kept", "effect": long}
    adjusted = AdjustResult("digits", (change,), {"routes": long, "workload": long})
    assert repr(adjusted) == (
        "AdjustResult(name='digits', changes=[c1: kept], facts=['routes', 'workload'])"
    )
    assert adjusted.changes[0]["effect"] == long
    assert len(repr(MigrateResult("digits", "done", "", long))) < 100
