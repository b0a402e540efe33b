"""``lepton bisect`` looks into a package that is not what was built, and names the bad layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lepton_core.cli import main
from lepton_coreml._mil._blob import BlobFile
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._write import MODEL, WEIGHTS

pytestmark = pytest.mark.xdist_group("coreml-bisect")  # one worker converts


@pytest.fixture(scope="module")
def made(pivots, feeds, tmp_path_factory):
    """Variants of one pivot as ``lepton convert`` leaves them, and samples."""
    folder = tmp_path_factory.mktemp("bisect")
    pivot = pivots("network").path
    for name, target, precision in (("ort", "onnxruntime", "fp32"), ("good", "coreml", "fp32")):
        given = ["convert", pivot, "--to", target, "--precision", precision, "--out",
                 str(folder / name), "-q"]  # fmt: skip
        assert main(given) == 0
    np.savez(folder / "x.npz", **feeds("network", 12))
    return folder


@pytest.fixture
def bad(made, tmp_path):
    """A variant of one's own whose package gets a fault."""
    return Path(shutil.copytree(made / "good", tmp_path / "bad"))


def package_of(variant):
    return variant / "model.mlpackage"


def flip_weight(package, named, byte=3, bit=6):
    """Turn a bit of the exponent of a weight's first number; returns the layer that reads it."""
    program = open_package(package).program()
    name, constant = next(
        (n, c) for n, c in program.constants() if n.endswith(named) and c.blob is not None
    )
    place = package / WEIGHTS
    data = bytearray(place.read_bytes())
    data[BlobFile(place).place(constant.blob.offset)[1] + byte] ^= 1 << bit
    place.write_bytes(bytes(data))
    return name


def rewrite(package, change):
    opened = open_package(package)
    message = opened.message()
    function = message.mlProgram.functions["main"]
    change(function.blocks[function.opset].operations)
    (package / MODEL).write_bytes(message.SerializeToString(deterministic=True))


@pytest.fixture
def bisect(made, capsys):
    def call(*sides, **options):
        capsys.readouterr()
        given = [str(side) for side in sides]
        options = {"data": made / "x.npz", **options}
        more = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        code = main(["bisect", *given, "--json", *more])
        return code, json.loads(capsys.readouterr().out)

    return call


def reader_of(package, constant):
    """Return the operation that reads a constant."""
    program = open_package(package).program()
    return next(
        op for op in program.block.operations
        if any(getattr(a, "name", "") == constant for args in op.inputs.values() for a in args)
    )  # fmt: skip


LONG = pytest.mark.conformance


@pytest.mark.parametrize("first", ["ort", "good", pytest.param(None, marks=LONG)])
def test_a_flipped_weight_is_found_in_its_layer(first, made, bad, bisect):
    """Against another runtime's variant, the sound package, and its own pivot."""
    constant = flip_weight(package_of(bad), "deep_weight")
    layer = reader_of(package_of(bad), constant)
    code, found = bisect(*([made / first] if first else []), bad)
    assert (code, found["ok"], found["of"]) == (1, False, "artifact")
    assert found["parted"]["value"] == found["culprit"]["value"] == layer.name
    assert found["culprit"]["operator"] == "conv"
    assert found["culprit"]["own"] > 1e-3
    assert found["outputs_part"]
    assert found["differences"] == [f"{constant}: 1 numbers differ"]
    assert "recorded sha256:" in found["notes"][0]
    before = [v for v in found["values"] if v["value"] != layer.name]
    assert all((v["own"] or 0) < 1e-6 for v in before), "what follows only carries it"
    sides = {found["first"]["name"], found["second"]["name"]}
    assert sides == {str(bad), str(made / first) if first == "good" else "the pivot, lowered again"}


def test_a_changed_operator_is_found(made, bad, bisect):
    def swap(operations):
        next(op for op in operations if op.type == "relu").type = "silu"

    rewrite(package_of(bad), swap)
    code, found = bisect(made / "ort", bad)
    assert code == 1
    assert found["culprit"]["operator"] == "relu", "what the sound one has there"
    assert "it is silu now" in found["differences"][0]


def test_an_operator_that_fails_is_the_first_to_part(made, bad, bisect):
    def cut(operations):
        declared = next(op for op in operations if op.type == "max_pool").outputs[0]
        declared.type.tensorType.dimensions[3].constant.size += 1

    rewrite(package_of(bad), cut)
    _, found = bisect(made / "good", bad)
    assert found["parted"]["operator"] == "max_pool"
    assert found["parted"]["error"] is None, "infinite"
    assert found["parted"]["hint"].startswith("it does not run: ")
    behind = [note for note in found["notes"] if "were not reached" in note]
    assert behind and "no counterpart" not in " ".join(found["notes"])


@pytest.fixture(scope="module")
def stranger(pivots, made):
    """A package of another model."""
    given = ["convert", pivots("perceptron").path, "--to", "coreml", "--out", str(made / "other")]
    assert main([*given, "--precision", "fp32", "-q"]) == 0
    return made / "other"


def test_artifacts_of_different_models_are_refused(made, stranger, bad, tmp_path, bisect):
    bare = shutil.copytree(package_of(stranger), tmp_path / "shipped.mlpackage")
    code, found = bisect(made / "good", bare)
    assert (code, found["error"]["code"]) == (2, "LPT-BIS-007")
    assert "x -> y" in found["error"]["cause"] and "logits" in found["error"]["cause"]
    flip_weight(package_of(bad), "deep_weight")
    code, found = bisect(stranger, bad)
    assert (code, found["error"]["code"]) == (2, "LPT-BIS-004")


@LONG
@pytest.mark.parametrize("pivot_gone", [False, True])
def test_a_package_is_compared_with_one_that_was_built_alike(
    pivot_gone, pivots, made, tmp_path, bisect
):
    """One of the same precision in which other operators stayed float32 is none."""
    given = ["convert", pivots("perceptron").path, "--to", "coreml", "--precision", "fp16", "-q"]
    for name, more in (("plain", []), ("kept", ["--option", 'keep=["linear", "relu"]'])):
        assert main([*given, "--out", str(tmp_path / name), *more]) == 0
    np.savez(made / "p.npz", x=np.random.default_rng(0).normal(size=(6, 8)).astype("f4"))
    flip_weight(package_of(tmp_path / "kept"), "fc2_weight")
    if pivot_gone:
        shutil.rmtree(tmp_path / "kept" / "origin")
    code, found = bisect(tmp_path / "plain", tmp_path / "kept", data=made / "p.npz")
    assert (code, found["first"]["name"]) == (1, "the pivot, lowered again")
    assert len(found["differences"]) == 1, found["differences"]
    assert found["values"][0]["error"] == 0.0


def test_another_side_that_is_nothing_is_not_passed_over(made, bad, bisect):
    flip_weight(package_of(bad), "deep_weight")
    code, found = bisect(bad, made / "typo")
    assert (code, found["ok"]) == (2, False)
    assert "typo" in found["error"]["message"]


def test_a_bare_package_is_either_side(made, tmp_path, bisect, capsys):
    """Without its card: the other side's pivot is lowered as the package says it was."""
    bare = Path(shutil.copytree(package_of(made / "good"), tmp_path / "shipped.mlpackage"))
    code, found = bisect(bare, made / "good")
    assert (code, found["ok"], found["culprit"]) == (0, True, None)
    assert found["differences"] == []
    assert "without its card" in found["notes"][0]
    flip_weight(bare, "head_weight")
    capsys.readouterr()
    assert main(["bisect", str(bare), str(made / "ort"), "--data", str(made / "x.npz")]) == 1
    said = capsys.readouterr()
    assert "values of the artifact's own program on 12 samples" in said.out
    assert "linear" in said.out and "Made there: fed the first variant's values" in said.out
    assert "head_weight: 1 numbers differ" in said.out
    code, found = bisect(bare)
    assert (code, found["error"]["code"]) == (2, "LPT-BIS-006")
    assert "sound artifact" in found["error"]["remedy"]


def test_a_low_bit_differs_and_no_value_shows_it(made, bad, bisect):
    flip_weight(package_of(bad), "head_weight", byte=0, bit=0)
    code, found = bisect(made / "good", bad)
    assert (code, found["ok"]) == (0, True)
    assert len(found["differences"]) == 1
    assert found["notes"][-1] == "The artifacts differ, and no value shows it on these samples."


@LONG
@pytest.mark.parametrize("fault", ["", "head_weight"])
def test_a_bare_package_may_be_second(fault, made, tmp_path, bisect):
    bare = Path(shutil.copytree(package_of(made / "good"), tmp_path / "shipped.mlpackage"))
    if fault:
        flip_weight(bare, fault)
    code, found = bisect(made / "ort", bare)
    assert (code, found["ok"]) == (int(bool(fault)), not fault)
    assert found["of"] == "artifact" and len(found["differences"]) == bool(fault)


@LONG
def test_a_sound_package_is_bisected_on_its_pivot(made, bisect):
    code, found = bisect(made / "ort", made / "good", rows=2)
    assert (code, found["of"], found["differences"]) == (0, "pivot", [])
    assert {v["value"] for v in found["values"]} >= {"s", "p", "logits", "share"}


@LONG
def test_a_fault_that_is_recorded_is_found_beside_the_pivot(made, bad, bisect):
    """A card that was written after the fault: only the artifact's own outputs tell."""
    from lepton_core.files import digest_path

    flip_weight(package_of(bad), "deep_weight")
    rewrite_notes(package_of(bad))
    card = json.loads((bad / "lepton.json").read_text())
    card["model"]["digest"] = digest_path(package_of(bad))
    (bad / "lepton.json").write_text(json.dumps(card))
    code, found = bisect(made / "ort", bad, rows=4)
    assert (code, found.get("of")) == (0, "pivot"), found
    assert found["tapping_changed"] is None, "infinite"
    assert "is not what its pivot gives when it is lowered again" in found["notes"][-1]
    assert "(conv)" in found["notes"][-1]
    assert "deep_weight: 1 numbers differ" in found["differences"][0]


def rewrite_notes(package):
    """Let the program name the weights that are there now."""
    from lepton_core.files import digest_path

    opened = open_package(package)
    message = opened.message()
    notes = message.description.metadata.userDefined
    notes["lepton.weights"] = digest_path(package / WEIGHTS)
    (package / MODEL).write_bytes(message.SerializeToString(deterministic=True))
