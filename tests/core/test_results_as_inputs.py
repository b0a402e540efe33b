"""Whatever one verb returns or writes, another takes: as an object, a directory or a file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core import hooks as default_hooks
from lepton_core import types
from lepton_core.built import find_built
from lepton_core.cli import main
from lepton_core.context import Context
from lepton_core.conversion import convert_into, start
from lepton_core.dispatch import Hooks
from lepton_core.errors import PlanError, SessionError, UsageError
from lepton_core.sources import resolve
from lepton_core.staging import MARKER


@pytest.fixture
def hooks(fake_registry):
    """The in-memory fake target, alone, behind the functions of lepton_core."""
    made = Hooks(fake_registry)
    default_hooks.use(made)
    return made


@pytest.fixture
def run(hooks, tmp_path, monkeypatch, capsys):
    """Run ``lepton`` in an empty directory; returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return command


@pytest.fixture
def converted(run, graph_file):
    """A directory that `lepton convert` wrote."""
    assert run("adapt", graph_file, "--to", "fake", "--out", "adapted") == (0, "")
    assert run("convert", "adapted", "--to", "fake", "--out", "converted") == (0, "")
    return Path("converted").absolute()


def samples_file(folder):
    path = folder / "samples.npz"
    np.savez(path, x=np.random.default_rng(5).normal(size=(100, 6)).astype(np.float32))
    return path


def test_a_result_is_named_by_directory_artifact_or_marker(converted, hooks):
    model = resolve(str(converted), hooks.registry)
    assert Path(model.path).parent == converted
    assert resolve(model.path, hooks.registry) == model
    assert resolve(str(converted / MARKER), hooks.registry) == model
    assert (model.format, model.digest[:7]) == ("fake", "sha256:")
    assert model.signature is not None
    assert [step.step.partition(" ")[0] for step in model.lineage] == ["adapt", "convert"]


def test_a_result_that_was_changed_is_not_taken(converted):
    model = lepton_core.load(converted)
    with Path(model.path).open("a") as stream:
        stream.write(" ")
    with pytest.raises(SessionError) as caught:
        lepton_core.load(converted)
    assert caught.value.code == "LPT-RUN-003"


@pytest.mark.parametrize("given", ["object", "directory", "file"])
def test_an_artifact_opens_however_it_is_given(converted, given, graph_file, tmp_path):
    model = lepton_core.load(converted)
    what = {"object": model, "directory": converted, "file": model.path}[given]
    rows = {"x": np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)}
    with lepton_core.open(what) as session:
        found = session.run(rows)
    with lepton_core.open(graph_file) as session:
        wanted = session.run(rows)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


def test_an_artifact_is_converted_from_what_it_was_lowered_from(run, converted):
    options = ("--to", "fake", "--precision", "fp16")
    assert run("convert", "converted", *options, "--out", "half")[0] == 0
    first, half = find_built("converted"), find_built("half")
    assert half.model.digest != first.model.digest
    assert half.precision == "fp16"
    # Not by way of the fp32 artifact, and what it was made from is kept again.
    parents = {step.parent for step in half.model.lineage}
    assert first.model.digest not in parents
    assert first.model.lineage[-1].parent in parents
    assert run("convert", "half", *options, "--out", "again")[0] == 0
    assert find_built("again").model.digest == half.model.digest


def test_an_artifact_in_its_own_format_is_copied_with_its_origin(run, converted):
    assert run("convert", "converted", "--to", "fake", "--out", "copy") == (0, "")
    assert find_built("copy").model.digest == find_built("converted").model.digest
    shutil.rmtree(converted)
    assert run("convert", "copy", "--to", "fake", "--precision", "fp16", "--out", "half")[0] == 0


def test_without_its_origin_an_artifact_says_so(run, converted):
    shutil.rmtree(converted / "origin")
    code, said = run("convert", "converted", "--to", "fake", "--precision", "fp16", "--out", "half")
    assert code == 4
    assert said.startswith("error[LPT-PLAN-003]")
    assert "not beside it" in said
    assert not Path("half").exists()


def test_a_compressed_artifact_without_its_recipe_is_not_converted(hooks, converted, tmp_path):
    model = lepton_core.load(converted)
    model = model.evolve(metadata={**model.metadata, "recipe": {"digest": "sha256:0"}})
    request = types.ConvertRequest("fake", precision="fp16")
    context = Context(tmp_path / "into")
    with pytest.raises(PlanError) as caught:
        convert_into(hooks, model, request, context, context)
    assert caught.value.code == "LPT-PLAN-004"


@pytest.mark.parametrize("source", ["adapted", "converted"])
def test_port_takes_results(run, converted, tmp_path, source):
    data = samples_file(tmp_path)
    code, said = run("port", source, "--to", "fake", "--precision", "fp16", "--data", data,
                     "--out", "ported")  # fmt: skip
    assert code == 0, said
    built = find_built("ported")
    assert built.precision == "fp16"
    assert built.passport["verdict"]["verdict"] == "pass"


def test_check_and_deploy_take_results(run, converted, tmp_path):
    assert run("check", "adapted", "--to", "fake")[0] == 0
    code, said = run("deploy", "converted", "--to", "fake", "--name", "n", "--engine", "fake",
                     "--store", tmp_path / "store")  # fmt: skip
    assert code == 0, said


def test_load_takes_a_variant_if_it_was_built(converted):
    model = lepton_core.load(converted)
    variant = types.Variant("fake", "fp32", model, kept=True)
    assert lepton_core.load(variant) == model
    with pytest.raises(UsageError) as caught:
        lepton_core.load(replace(variant, model=None, why="too slow"))
    assert caught.value.code == "LPT-USE-007"


def test_the_marker_carries_more_and_readers_pass_over_it(converted, hooks, tmp_path):
    from lepton_core.built import write_marker

    model = lepton_core.load(converted)
    write_marker(converted, converted, model, kind="convert", target="fake", precision="fp32",
                 more={"name": "net", "target": "overruled"})  # fmt: skip
    built = find_built(converted)
    assert (built.marker["name"], built.target) == ("net", "fake")
    assert built.model == model


def test_only_an_artifact_of_the_asked_precision_is_at_its_end(hooks, converted):
    model = lepton_core.load(converted)
    request = types.ConvertRequest("fake")
    assert start(hooks, model, request) == (model, request)
    half = model.evolve(metadata={**model.metadata, "precision": "fp16"})
    assert start(hooks, half, request)[0].format == "fake-graph"
    compressed = model.evolve(metadata={"precision": "int8", "recipe": {"digest": "sha256:0"}})
    assert start(hooks, compressed, request) == (compressed, request)
