"""Every command beside ``port``: verify, open, the single verbs, listings, doctor, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from lepton_core.catalogue import KNOWN
from lepton_core.cli import _adjust
from lepton_core.cli._types import DURATION

from .conftest import environment

pytestmark = pytest.mark.timeout(180)
DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "cli.md"


# --- check ------------------------------------------------------------------------------------


def test_check_prints_the_matrix(lepton, net):
    ended = lepton("check", net, "--to", "fake")
    assert ended.code == 0
    assert "314 parameters" in ended.out
    assert "fake-graph -> fake" in ended.out
    assert lepton("check", net, "--json").data["ok"] is True


def test_check_names_the_rewrite(lepton, graph_file):
    ended = lepton("check", graph_file, "--to", "fake")
    assert ended.code == 0
    assert "needs rewrite" in ended.out
    assert "fold-scale" in ended.out


def test_check_is_1_if_something_asked_for_is_not_there(lepton, net):
    ended = lepton("check", net, "--to", "fake,onnxruntime")
    assert ended.code == 1
    assert 'pip install "$(ls dist/lepton_onnxruntime-*.whl)[cpu]"' in ended.out


# --- verify -----------------------------------------------------------------------------------


def test_verify_digests_then_outputs(built, lepton, samples):
    place = built / "fake" / "fp16"
    quick = lepton("verify", place)
    assert quick.code == 0
    assert "as recorded" in quick.out
    assert "not run" in quick.out
    ended = lepton("verify", place / "model.json", "--data", samples, "--json")
    assert ended.code == 0, ended.err
    data = ended.data
    assert (data["recorded"], data["verdict"], data["ok"]) == ("pass", "pass", True)
    assert data["same_rows"] is True
    assert data["source_unchanged"] is True
    recorded = json.loads((place / "passport.json").read_text())
    assert data["errors"]["rel_l2"] == pytest.approx(recorded["outputs"]["y"]["rel_l2"])


def test_verify_writes_a_new_passport(built, lepton, samples, tmp_path):
    new = tmp_path / "new.json"
    ended = lepton("verify", built / "fake" / "fp16", "--data", samples, "--out", new)
    assert ended.code == 0
    assert json.loads(new.read_text())["verdict"]["verdict"] == "pass"
    assert str(new) in ended.out


def test_verify_states_the_gain_over_the_fp32_variant_beside_it(built, lepton, samples):
    recorded = json.loads((built / "fake" / "fp16" / "passport.json").read_text())["gain"]

    def verified(precision):
        ended = lepton("verify", built / "fake" / precision, "--data", samples, "--json")
        assert ended.code == 0, ended.err
        assert ended.data["gain"] == ended.data["passport"].get("gain")
        return ended.data["gain"]

    found = verified("fp16")
    assert found["size_bytes"] == recorded["size_bytes"]
    assert found["smaller"] is True
    assert found["time"]["speedup"] > 0
    assert found["inputs"] == "samples"
    text = lepton("verify", built / "fake" / "fp16", "--data", samples).out
    assert "smaller than the float model" in text
    assert verified("fp32") is None


@pytest.mark.parametrize("harm", ["gone", "changed", "of another source"])
def test_verify_says_nothing_of_a_gain_over_what_is_not_as_recorded(built, lepton, samples, harm):
    plain = built / "fake" / "fp32"
    if harm == "gone":
        shutil.rmtree(plain)
    elif harm == "changed":
        (plain / "model.json").write_text((plain / "model.json").read_text() + " ")
    else:
        passport = json.loads((plain / "passport.json").read_text())
        passport["source"]["digest"] = "sha256:0"
        (plain / "passport.json").write_text(json.dumps(passport))
    ended = lepton("verify", built / "fake" / "fp16", "--data", samples, "--json")
    assert ended.code == 0, ended.err
    assert ended.data["gain"] is None
    assert "gain" not in ended.data["passport"]


def test_verify_on_other_rows_says_so(built, lepton, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, x=np.random.default_rng(9).normal(size=(90, 8)).astype(np.float32))
    ended = lepton("verify", built / "fake" / "fp16", "--data", other)
    assert "other rows than recorded" in ended.out
    assert (
        lepton("verify", built / "fake" / "fp16", "--data", other, "--json").data["same_rows"]
        is False
    )


def test_verify_holds_the_budget(built, lepton, samples):
    given = ("verify", built / "fake" / "fp16", "--data", samples, "--max-drop", "0.0000001")
    ended = lepton(*given)
    assert ended.code == 1
    assert "fail" in ended.out
    assert lepton(*given, "--json").data["ok"] is False


def test_verify_refuses_what_was_changed(built, lepton, samples):
    artifact = built / "fake" / "fp16" / "model.json"
    artifact.write_text(artifact.read_text() + " ")
    ended = lepton("verify", artifact, "--data", samples)
    assert ended.code == 1
    assert ended.err.startswith("error[LPT-CLI-003]")
    error = lepton("verify", artifact, "--json").error
    assert error["details"]["recorded"] != error["details"]["found"]


def test_verify_follows_a_result_that_was_moved(built, lepton, samples, tmp_path):
    moved = tmp_path / "elsewhere"
    built.rename(moved)
    ended = lepton("verify", moved / "fake" / "fp16", "--data", samples)
    assert ended.code == 0
    assert str(moved) in ended.out


def test_verify_takes_the_origin_where_the_source_is_gone(built, lepton, net, samples, tmp_path):
    """A result that was copied to another machine is checked there without another file."""
    elsewhere = tmp_path / "moved.fake"
    net.rename(elsewhere)
    given = ("verify", built / "fake" / "fp16", "--data", samples)
    ended = lepton(*given)
    assert ended.code == 0, ended.err
    origin = built / "fake" / "fp16" / "origin" / net.name
    assert f"is gone; {origin}, kept from it" in ended.out
    data = lepton(*given, "--json").data
    assert data["origin"] is True
    assert data["source_unchanged"] is True, "the very file, as fp16 was made of it in one step"
    assert data["same_rows"] is True
    origin.write_text(origin.read_text() + " ")
    ended = lepton(*given)
    assert (ended.code, ended.err.partition(":")[0]) == (5, "error[LPT-ORIG-001]")
    shutil.rmtree(origin.parent)
    ended = lepton(*given)
    assert ended.code == 2
    assert ended.err.startswith("error[LPT-CLI-004]")
    assert "--against" in ended.err
    assert lepton(*given, "--against", elsewhere).code == 0


def test_verify_against_a_source_that_changed(built, lepton, net, samples):
    graph = json.loads(net.read_text())
    graph["layers"] = graph["layers"][:1]
    net.write_text(json.dumps(graph))
    ended = lepton("verify", built / "fake" / "fp16", "--against", net)
    assert "not the one recorded" in ended.out
    ended = lepton("verify", built / "fake" / "fp16", "--data", samples)
    assert ended.code == 1


@pytest.mark.parametrize(
    ("name", "code", "exit_code"),
    [("nowhere", "LPT-CLI-007", 2), ("net.fake", "LPT-CLI-002", 2), ("built", "LPT-CLI-005", 2)],
)
def test_verify_needs_one_variant_with_a_passport(built, lepton, tmp_path, name, code, exit_code):
    ended = lepton("verify", tmp_path / name)
    assert ended.code == exit_code
    assert ended.err.startswith(f"error[{code}]")


def test_verify_of_a_variant_that_was_not_kept(lepton, net, samples, tmp_path):
    out = tmp_path / "out"
    lepton(
        "port", net, "--to", "fake", "--precision", "fp16", "--data", samples,
        "--metric", "rel_l2", "--max-drop", "0.0000001", "--out", out,
    )  # fmt: skip
    ended = lepton("verify", out / "fake" / "fp16")
    assert (ended.code, ended.err.partition(":")[0]) == (2, "error[LPT-CLI-006]")


# --- open -------------------------------------------------------------------------------------


def test_open_shows_signature_and_facts(lepton, net):
    ended = lepton("open", net)
    assert ended.code == 0
    assert "input   x: float32[batch, 8]" in ended.out
    assert "storage_precision: fp32" in ended.out
    assert lepton("open", net, "--json").data["outputs"] == {}


def test_open_runs_and_writes_outputs(built, lepton, net, samples, tmp_path):
    out = tmp_path / "outputs.npz"
    ended = lepton("open", net, "--data", samples, "--out", out)
    assert ended.code == 0
    with np.load(out) as arrays:
        from_source = arrays["y"]
    assert from_source.shape == (400, 10)
    data = lepton("open", built / "fake" / "fp16", "--data", samples, "--out", out, "--json").data
    with np.load(out) as arrays:
        from_variant = arrays["y"]
    assert data["facts"]["storage_precision"] == "fp16"
    assert data["outputs"]["y"]["max"] == pytest.approx(float(from_variant.max()))
    error = np.linalg.norm(from_variant - from_source) / np.linalg.norm(from_source)
    assert 0 < error < 2e-3


def test_open_writes_nothing_where_the_runtime_does_not_tell_what_ran(
    lepton, net, samples, tmp_path
):
    out = tmp_path / "y.npz"
    ended = lepton("open", net, "--data", samples, "--out", out, "--execution", "--json")
    assert ended.data["error"]["code"] == "LPT-RUN-004"
    assert "--to" in ended.data["error"]["remedy"]
    assert not out.exists()


def test_open_refuses_samples_that_do_not_fit(lepton, net, tmp_path):
    bad = tmp_path / "bad.npz"
    np.savez(bad, x=np.zeros((3, 5), np.float32))
    out = tmp_path / "o.npz"
    ended = lepton("open", net, "--data", bad, "--out", out)
    assert ended.code == 2
    assert ended.err.startswith("error[LPT-DATA-")
    assert not out.exists()


def test_arrays_of_any_name_are_written(tmp_path):
    from lepton_core.cli._arrays import write_npz

    arrays = {"file": np.ones(2), "allow_pickle": np.zeros(1), "words": np.array(["a"], object)}
    write_npz(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert sorted(found) == ["allow_pickle", "file", "words"]
        assert found["words"].tolist() == ["a"]


# --- single verbs -----------------------------------------------------------------------------


def test_convert_writes_an_artifact_that_can_be_opened_and_moved(lepton, net, tmp_path):
    out = tmp_path / "converted"
    ended = lepton("convert", net, "--to", "fake", "--precision", "fp16", "--out", out)
    assert ended.code == 0, ended.err
    assert "way: fake-graph -> fake" in ended.out
    assert sorted(p.name for p in out.iterdir()) == ["lepton.json", "model.json", "origin"]
    moved = tmp_path / "moved"
    out.rename(moved)
    assert "storage_precision: fp16" in lepton("open", moved).out
    data = lepton("convert", net, "--to", "fake", "--out", out, "--json").data
    assert data["model"]["format"] == "fake"
    assert Path(data["model"]["path"]).is_file()
    assert data["size_bytes"] == Path(data["model"]["path"]).stat().st_size


def test_a_batch_that_stays_open_is_said(lepton, net, tmp_path):
    asked = ("convert", net, "--to", "fake", "--out", tmp_path / "out")
    assert "left the batch open: x: float32[batch, 8]" in lepton(*asked, "--static-batch").err
    assert "left the batch open" not in lepton(*asked).err


def test_convert_to_the_format_it_has_is_a_copy(lepton, net, tmp_path):
    out = tmp_path / "same"
    ended = lepton("convert", net, "--to", "fake", "--format", "fake-graph", "--out", out)
    assert ended.code == 0, ended.err
    assert (out / "net.fake").read_bytes() == net.read_bytes()


def test_convert_replaces_its_own_and_nothing_else(lepton, net, tmp_path):
    out = tmp_path / "out"
    assert lepton("convert", net, "--to", "fake", "--out", out).code == 0
    assert lepton("convert", net, "--to", "fake", "--out", out).code == 0
    (out / "lepton.json").unlink()
    ended = lepton("convert", net, "--to", "fake", "--out", out)
    assert (ended.code, ended.err.partition(":")[0]) == (5, "error[LPT-IO-003]")
    assert lepton("convert", net, "--to", "fake", "--out", out, "--force").code == 0


def test_a_failed_convert_leaves_nothing(lepton, graph_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    ended = lepton("convert", graph_file, "--to", "fake", "--out", tmp_path / "out")
    assert ended.code == 1
    assert ended.err.startswith("error[FAKE-CONV-001]")
    assert sorted(tmp_path.iterdir()) == before


def test_adapt_says_what_changed(lepton, graph_file, net, tmp_path):
    ended = lepton("adapt", graph_file, "--to", "fake", "--out", tmp_path / "a")
    assert ended.code == 0, ended.err
    assert "changes:" in ended.out
    assert lepton("convert", tmp_path / "a", "--to", "fake", "--out", tmp_path / "c").code == 0
    assert "none needed" in lepton("adapt", net, "--to", "fake", "--out", tmp_path / "b").out


def test_optimize_by_a_named_engine(lepton, net, samples, tmp_path):
    given = ("optimize", net, "--to", "fake", "--engine", "fake", "--data", samples)
    ended = lepton(*given, "--out", tmp_path / "q", "--json")
    assert ended.code == 0, ended.err
    assert Path(ended.data["recipe"]).is_file()
    assert "400 samples" in ended.data["why"]
    tight = lepton(*given, "--out", tmp_path / "tight", "--max-drop", "0.000001")
    assert tight.code == 1
    assert not (tmp_path / "tight").exists()


def test_deploy_adjust_migrate(lepton, net, tmp_path):
    lepton("convert", net, "--to", "fake", "--out", tmp_path / "c")
    engine = ("--engine", "fake", "--store", tmp_path / "home")
    ended = lepton("deploy", tmp_path / "c", "--name", "d", "--to", "fake", *engine, "--json")
    assert ended.code == 0, ended.err
    assert (ended.data["name"], ended.data["version"]) == ("d", "1")
    telemetry = 'telemetry=[{"threads": 1, "batch": 4, "p50_ms": 2.0}]'
    ended = lepton("adjust", "d", *engine, "--option", telemetry)
    assert ended.code == 0, ended.err
    assert "batch" in ended.out
    ended = lepton("migrate", "d", "--to", "fake", "--model", net, *engine)
    assert ended.code == 0, ended.err
    assert "done" in ended.out
    held = lepton(
        "migrate", "d", "--to", "fake", "--model", net, *engine, "--option", "tolerance=-1"
    )
    assert held.code == 1
    assert "returned" in held.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", "net.fake", "--to", "fake"),
        ("deploy", "net.fake", "--name", "d", "--to", "fake"),
        ("adjust", "d"),
        ("migrate", "d", "--to", "fake"),
        ("convert", "net.fake", "--to", "onnxruntime"),
        ("adapt", "net.fake", "--to", "openvino"),
    ],
)
def test_a_verb_whose_owner_is_missing_says_how_far_it_is_supported(lepton, net, arguments):
    ended = lepton(*arguments)
    assert ended.code == 4
    assert ended.err.startswith("error[LPT-PLUG-001]")
    assert "support: " in ended.err
    assert "hint: " in ended.err
    assert lepton(*arguments, "--json").error["details"]["support"]


def test_a_group_alone_says_what_is_missing(lepton):
    ended = lepton("store")
    assert (ended.code, len(ended.err.splitlines())) == (2, 2)
    assert ended.err.startswith("error[LPT-USE-101]: `lepton store` needs a command")
    ended = lepton("adjust")
    assert ended.code == 2 and "Missing argument 'REFERENCE'" in ended.err
    assert "`lepton adjust --help` shows" in ended.err  # help lists no `run`
    ended = lepton("adjust", "digits", "--objectve", "latency")
    assert "`lepton adjust` has no option --objectve" in ended.err
    assert "`lepton adjust log --help` shows" in lepton("adjust", "log").err


# --- listings ---------------------------------------------------------------------------------


def test_targets_lists_what_is_there_and_what_could_be(lepton):
    states = {t["id"]: t for t in lepton("targets", "--json").data["targets"]}
    assert states["fake"]["status"] == "ready"
    assert states["fake"]["verbs"]["convert"] == "full"
    assert states["fake"]["precisions"] == ["fp32", "fp16", "int8"]
    for known in KNOWN.values():
        if known.kind == "target":
            expected = "not installed" if known.support else "planned"
            assert states[known.id]["status"] == expected
    ended = lepton("targets")
    assert 'onnxruntime: pip install "$(ls dist/lepton_onnxruntime-*.whl)[cpu]"' in ended.out
    assert [t["id"] for t in lepton("targets", "--ready", "--json").data["targets"]] == ["fake"]


def test_unusable_targets_are_listed_with_the_reason(command):
    broken = ("missing_backend", "duplicate_a", "duplicate_b", "new_spec", "broken_always")
    ended = command("targets", "--json", fakes=("ok", *broken))
    assert ended.code == 0
    assert ended.err == ""
    states = {t["id"]: t for t in ended.data["targets"]}
    assert states["fake"]["status"] == "ready"
    assert states["missing-backend"]["status"] == "backend missing"
    assert states["missing-backend"]["fix"] == 'pip install "nowhere[cpu]"'
    assert states["twin"]["status"] == "conflict"
    assert "fake-duplicate-a 1.0" in states["twin"]["why"]
    assert "fake-zz-duplicate-b 1.0" in states["twin"]["why"]
    assert states["new-spec"]["status"] == "incompatible"
    table = command("targets", fakes=("ok", *broken))
    assert "missing-backend: " in table.out


def test_a_switched_off_target_is_disabled(command, tmp_path):
    site = tmp_path / "site"
    distribution(site, "fake-off", "1.0")
    (site / "fake_off-1.0.dist-info" / "entry_points.txt").write_text(
        "[lepton.targets]\nonnxruntime = fake_off.plugin\n"
    )
    ended = command("targets", "--json", paths=[site], LEPTON_DISABLED_PLUGINS="onnxruntime")
    states = {t["id"]: t["status"] for t in ended.data["targets"]}
    assert states["onnxruntime"] == "disabled"


def test_plugins_says_why_one_fails_and_never_stops(command):
    fakes = ("ok", "assert_at_import", "exit_at_import", "raise_at_import", "unknown_hook")
    ended = command("plugins", "--json", fakes=fakes)
    assert ended.code == 0, ended.err
    states = {p["id"]: p for p in ended.data["plugins"]}
    assert states.pop("fake")["status"] == "ok"
    assert len(states) == 4
    for state in states.values():
        assert state["status"] == "broken", state
        assert state["failure"]["code"].startswith("LPT-PLUG-")
        assert state["failure"]["remedy"]
        assert state["distribution"].startswith("fake-")
        assert state["version"] == "1.0"
    table = command("plugins", fakes=fakes)
    assert table.err == ""
    for name in states:
        assert f"\n{name}: LPT-PLUG-" in table.out


def test_plugins_reports_even_with_strict_plugins(command):
    ended = command("plugins", "--json", fakes=("ok", "raise_at_import"), LEPTON_STRICT_PLUGINS="1")
    assert ended.code == 0
    assert {p["status"] for p in ended.data["plugins"]} == {"ok", "broken"}


def test_a_broken_plugin_is_one_warning_elsewhere(command, net):
    fakes = ("ok", "new_spec")
    ended = command("check", net, "--to", "fake", fakes=fakes)
    assert ended.code == 0
    assert ended.err.count("warning: LPT-PLUG-005") == 1
    assert command("check", net, "--to", "fake", "-q", fakes=fakes).err == ""


def test_without_plugins_it_says_where_to_look(command):
    assert "`lepton targets`" in command("plugins", fakes=()).out


# --- doctor -----------------------------------------------------------------------------------


def test_doctor_of_a_healthy_environment(command):
    ended = command("doctor", "--json")
    checks = {c["check"]: c for c in ended.data["checks"]}
    assert ended.code == 0, ended.out
    assert checks["worker"]["status"] == "ok"
    assert "answered in" in checks["worker"]["detail"]
    assert "SIMD path" in checks["kernels"]["detail"]
    assert checks["plugin fake"]["status"] == "ok"
    assert ended.data["environment"]["cpus_available"] >= 1


def distribution(folder, name, version, *requires):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Requires-Dist: {r}\n" for r in requires]
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}"
    )


def test_doctor_names_every_problem_with_its_fix(command, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    distribution(site, "fake-rival-cpu", "1.0", "numpy<1.0")
    distribution(site, "fake-rival-gpu", "1.0")
    distribution(site, "torn", "1.0")
    distribution(site, "torn", "2.0")
    plugin = site / "fake_rivals"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("")
    (plugin / "plugin.py").write_text("")
    (plugin / "info.py").write_text(
        "from lepton_core.capabilities import Backend, TargetInfo\n"
        "INFO = TargetInfo('rivals', 'Rivals', 'fake-rivals', backends=("
        "Backend('rival', ('fake-rival-cpu', 'fake-rival-gpu')),))\n"
    )
    distribution(site, "fake-rivals", "1.0", "absent-thing>=2; python_version>='3'")
    (site / "fake_rivals-1.0.dist-info" / "entry_points.txt").write_text(
        "[lepton.targets]\nrivals = fake_rivals.plugin\n"
    )
    ended = command(
        "doctor", "--no-worker", "--json", fakes=("raise_at_import",), paths=[site],
        allow=["rivals", "raise-at-import"],
    )  # fmt: skip
    assert ended.code == 1
    problems = {c["check"]: c for c in ended.data["checks"] if c["status"] == "problem"}
    assert "fake-rival-cpu and fake-rival-gpu" in problems["rivals of rival"]["detail"]
    assert "pip uninstall -y fake-rival-cpu fake-rival-gpu" in problems["rivals of rival"]["fix"]
    assert "numpy<1.0" in problems["requirement of fake-rival-cpu"]["detail"]
    assert problems["requirement of fake-rivals"]["fix"] == 'pip install "absent-thing>=2"'
    assert "1.0, 2.0" in problems["duplicate distribution"]["detail"]
    assert any(name.startswith("plugin raise") for name in problems)
    assert all(p["fix"] for p in problems.values())
    text = command("doctor", "--no-worker", fakes=("raise_at_import",), paths=[site])
    assert text.code == 1
    assert "  fix: " in text.out


def test_a_check_that_fails_is_a_finding(registry, monkeypatch):
    from lepton_core import doctor

    def broken():
        raise OSError("unreadable")

    monkeypatch.setattr(doctor, "_kernels", broken)
    found = doctor.diagnose(registry, worker=False)
    assert not found.ok
    assert any("unreadable" in f.detail for f in found.findings)
    assert any(f.check == "python" for f in found.findings)


def test_a_place_that_cannot_be_written(monkeypatch, tmp_path):
    import tempfile

    from lepton_core import doctor

    def refuse(*a, **k):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = doctor._writable("cache directory", tmp_path, "XDG_CACHE_HOME")
    assert finding.status == "problem"
    assert "XDG_CACHE_HOME" in finding.fix


# --- completion -------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_and_how_to_install_it(lepton, shell):
    ended = lepton("completion", shell)
    assert ended.code == 0
    assert f"{shell}_complete" in ended.out
    assert "To install it" in ended.err
    data = lepton("completion", shell, "--json").data
    assert data["script"].strip() == ended.out.strip()
    assert data["install"]


def completions(*words, shell="bash", **more):
    """Ask as the shell's script does."""
    variables = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    ended = subprocess.run(
        [sys.executable, "-m", "lepton_core.cli"],
        env=environment("ok", _LEPTON_COMPLETE=f"{shell}_complete", **{**variables, **more}),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert ended.stderr == ""
    return [line.replace("\t", ",").split(",")[1:] for line in ended.stdout.splitlines()]


def test_commands_options_and_targets_are_completed():
    assert ["port"] in completions("lepton", "po")
    assert ["--precision"] in completions("lepton", "port", "--prec")
    assert ["fake"] in completions("lepton", "port", "m", "--to", "fa")
    assert completions("lepton", "port", "m", "--precision", "int8") == [["int8"], ["int8-weight"]]
    found = completions("lepton", "port", "m", "--precision", "fp32,fp")
    assert found == [["fp32", "fp16"]]  # what is there already is not offered again
    assert ["cosine"] in completions("lepton", "port", "m", "--metric", "")
    assert ["mixed"] in completions("lepton", "optimize", "m", "--precision", "m")
    found = completions("lepton", "port", "m", "--to", "fake,onnx")
    assert ["fake", "onnxruntime"] in found
    words = {"COMP_WORDS": "lepton po", "COMP_WORD": "po"}
    assert completions("lepton", shell="powershell", **words)[0][0] == "port"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_works_in_bash(tmp_path):
    program = tmp_path / "bin" / "lepton"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lepton_core.cli "$@"\n')
    program.chmod(0o755)
    env = environment("ok", LEPTON_PLUGINS="fake")
    env["PATH"] = f"{program.parent}{os.pathsep}{env['PATH']}"
    script = (
        "source <(lepton completion bash 2>/dev/null); complete -p lepton; "
        "COMP_WORDS=(lepton port m --to fa); COMP_CWORD=4; _lepton_completion lepton; "
        'echo "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], env=env, capture_output=True, encoding="utf-8", check=True
    )
    registered, reply = ended.stdout.splitlines()
    assert registered.endswith("lepton")
    assert reply == "fake"


# --- documentation ----------------------------------------------------------------------------


def test_the_reference_page_is_what_the_commands_say():
    from lepton_core.cli._reference import render

    assert DOCS.read_text(encoding="utf-8") == render(), (
        "write it anew: python -m lepton_core.cli._reference > docs/reference/cli.md"
    )


def test_adapt_takes_names_sizes_and_says_what_it_considered(lepton, graph_file, tmp_path):
    given = ("adapt", graph_file, "--to", "fake", "--out", tmp_path / "a")
    wrong = lepton(*given, "--rewrite", "fold-scal")
    assert wrong.code == 2
    assert wrong.err.startswith("error[LPT-ADAPT-001]")
    assert "fold-scale" in wrong.err
    assert not (tmp_path / "a").exists()
    ended = lepton(*given, "--rewrite", "fold-scale", "--json")
    assert ended.code == 0, ended.err
    assert ended.data["changes"] == ["fold-scale: layer 1 (by 0.5)"]
    assert ended.data["considered"] == []
    again = lepton("port", tmp_path / "a", "--to", "fake", "--out", tmp_path / "p", "--allow-weak")
    assert again.code == 0, again.err


def test_rewrites_lists_what_plugins_bring(lepton):
    listed = lepton("rewrites")
    assert listed.code == 0, listed.err
    assert "fold-scale" in listed.out
    (one,) = lepton("rewrites", "--to", "fake", "--json").data["rewrites"]
    assert one["name"] == "fold-scale"
    assert one["numbers"] == "within 1e-06"
    assert one["asked"] == "forbids scale"
    assert one["distribution"] == "lepton-core"


def test_durations_are_shown_with_their_unit(lepton):
    for words, shown in (
        (("adjust",), "[default: 30s]"),
        (("adjust",), "[default: 20s]"),
        (("port",), "[default: 0.4s]"),
        (("store", "gc"), "[default: 168h]"),
    ):
        text = " ".join(lepton(*words, "--help").out.split())
        assert shown in text, (words, shown)
    options = {o.name: o for o in _adjust.run_command.params}
    context = click.Context(_adjust.run_command)
    assert options["deadline"].get_default(context) == "30s"
    assert options["deadline"].type_cast_value(context, "30s") == 30.0
    assert DURATION.convert("168h", None, None) == 7 * 86_400.0
