"""``lepton port``: contract, exit codes, bad input, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from .conftest import environment, read_terminal

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def bad(tmp_path):
    """Write a sample file; returns a function of arrays."""

    def write(**arrays):
        path = tmp_path / "bad.npz"
        np.savez(path, **arrays)
        return path

    return write


def rows(n=40):
    return np.random.default_rng(1).normal(size=(n, 8)).astype(np.float32)


def test_the_help_says_which_precisions_are_pruned(lepton):
    """`optimize` prunes what becomes integers, too; `port` does not."""
    port, optimize = (" ".join(lepton(name, "--help").out.split()) for name in ("port", "optimize"))
    assert "of sparse, palette and mixed, other precisions stay whole" in port
    assert "with an integer precision, weights are quantized after it" in optimize


def test_options_reach_the_job(lepton, fake_hooks, monkeypatch):
    from lepton_core import porting
    from lepton_core.porting import PortResult
    from lepton_core.types import Limits, Variant

    seen = {}

    def record(source, **given):
        seen.update(given, source=source)
        kept = Variant("fake", "fp32", None, None, "pass", True, "as asked")
        return PortResult({}, (kept,), Path("x"))

    monkeypatch.setattr(porting, "port", record)
    ended = lepton(
        "port", "m.onnx", "--to", "fake,other", "--to", "third", "--data", "s.npz",
        "--precision", "fp32,fp16", "--precision", "int8", "--metric", "top1",
        "--max-drop", "0.005", "--out", "o", "--seed", "7", "--threads", "2",
        "--time-limit", "1h30m", "--mem-limit", "1.5G", "--show-samples", "--force",
        "--option", "fake.layout=nhwc", "--option", "fake/int8.rows=[1]", "--timing", "0",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    reporter = seen.pop("reporter")
    assert hasattr(reporter, "task")
    assert seen == {
        "source": "m.onnx",
        "targets": ("fake", "other", "third"),
        "precisions": ("fp32", "fp16", "int8"),
        "samples": "s.npz",
        "metric": "top1",
        "max_drop": 0.005,
        "out": Path("o"),
        "seed": 7,
        "threads": 2,
        "limits": Limits(5400.0, 3 << 29),
        "show_samples": True,
        "latency_seconds": 0.0,
        "force": True,
        "hooks": fake_hooks,
        "compression": {},
        "options": {"fake": {"layout": "nhwc"}, "fake/int8": {"rows": [1]}},
    }


def test_the_contract(lepton, net, samples, tmp_path):
    ended = lepton(
        "port", net, "--to", "fake", "--precision", "fp32,fp16,int8", "--data", samples,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert ended.code == 0
    assert ended.err == ""
    assert ended.data["schema"] == 1
    assert ended.data["ok"] is True
    by_precision = {v["precision"]: v for v in ended.data["variants"]}
    assert list(by_precision) == ["fp32", "fp16", "int8"]
    for variant in by_precision.values():
        assert set(variant) >= {
            "target", "precision", "path", "size_bytes", "latency_ms", "metrics", "errors",
            "verdict", "kept", "why", "passport",
        }  # fmt: skip
        assert set(variant["latency_ms"]) == {"p50", "p95"}
        assert set(variant["metrics"]) == {"name", "source", "variant", "drop"}
        assert set(variant["errors"]) == {"max_abs", "rel_l2", "sqnr_db", "cosine"}
    fp16 = by_precision["fp16"]
    assert (fp16["verdict"], fp16["kept"]) == ("pass", True)
    assert 0 < fp16["errors"]["rel_l2"] < 2e-3
    assert Path(fp16["path"]).stat().st_size == fp16["size_bytes"]
    assert json.loads(Path(fp16["passport"]).read_text())["schema"] == 1
    assert by_precision["int8"]["kept"] is False
    assert "LPT-PLAN-002" in by_precision["int8"]["why"]


def test_table_page_and_reasons(built, lepton, net, samples, tmp_path):
    ended = lepton("port", net, "--to", "fake", "--data", samples, "--out", built)
    assert ended.code == 0
    head, row, *rest = ended.out.splitlines()
    assert head.split() == [
        "target", "precision", "size", "p50", "/", "p95", "ms", "metric", "rel", "L2", "verdict",
        "kept",
    ]  # fmt: skip
    assert row.split()[:2] == ["fake", "fp32"]
    assert row.split()[-2:] == ["pass", "yes"]
    assert f"page: {built / 'report.html'}" in rest
    assert any(line.startswith("fake fp32: ") for line in rest)
    assert ended.err == ""


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 3),
        (("--allow-weak",), 0),
        (("--precision", "fp32,int8", "--allow-weak"), 0),
        (("--precision", "fp32,int8", "--allow-weak", "--strict"), 1),
    ],
)
def test_exit_codes_without_samples(lepton, net, tmp_path, options, code):
    ended = lepton("port", net, "--to", "fake", "--out", tmp_path / "out", *options)
    assert ended.code == code
    assert "weak" in ended.out


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("order", ["crasher,fake", "fake,crasher"])
def test_a_crash_of_one_converter_leaves_the_other_targets_alone(
    command, net, samples, tmp_path, order
):
    place = tmp_path / "tmp"
    place.mkdir()
    ended = command(
        "port", net, "--to", order, "--data", samples, "--out", tmp_path / "out", "--json",
        fakes=("crasher", "ok"), TMPDIR=str(place),
    )  # fmt: skip
    assert ended.code == 1, ended.err
    by_target = {v["target"]: v for v in ended.data["variants"]}
    whole, broken = by_target["fake"], by_target["crasher"]
    assert (whole["kept"], whole["verdict"]) == (True, "pass")
    assert Path(whole["path"]).is_file()
    assert Path(whole["passport"]).is_file()
    assert (broken["kept"], broken["path"]) == (False, None)
    assert "LPT-CONV-001" in broken["why"]
    assert "at the operator 'relu' (layer 1)" in broken["why"]
    assert "LPT-WORK-003" in broken["why"]
    (folder,) = place.glob("lepton-crasher-*")
    assert f"{folder}/convert.py" in broken["why"]
    assert (folder / "convert.py").is_file()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_crash_of_the_only_converter(command, net, samples, tmp_path):
    ended = command(
        "port", net, "--to", "crasher", "--data", samples, "--out", tmp_path / "out",
        fakes=("crasher", "ok"), TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert ended.code == 1
    assert "LPT-CONV-001" in ended.out
    assert "convert.py" in ended.out


def test_nothing_kept_is_1(lepton, net, samples, tmp_path):
    ended = lepton(
        "port", net, "--to", "fake", "--precision", "fp16", "--data", samples,
        "--metric", "rel_l2", "--max-drop", "0.0000001", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 1
    assert "nothing was kept" in ended.err


@pytest.mark.parametrize(
    "arrays",
    [
        {"y": rows()},
        {"x": rows()[:, :5]},
        {"x": rows().astype(np.complex64)},
        {"x": rows(0)},
        {"x": np.where(rows() > 1, np.nan, rows())},
        {"x": rows(), "labels": np.zeros(39, np.int64)},
        {"x": np.array([["a"] * 8] * 4)},
    ],
    ids=["name", "shape", "dtype", "empty", "nan", "labels", "text"],
)
def test_bad_samples_are_one_error_and_leave_nothing(lepton, net, tmp_path, bad, arrays):
    out = tmp_path / "out"
    given = ("port", net, "--to", "fake", "--data", bad(**arrays), "--out", out)
    before = sorted(tmp_path.iterdir())
    ended = lepton(*given)
    assert ended.code == 2
    assert ended.err.startswith("error[LPT-DATA-")
    assert "hint:" in ended.err
    assert len(ended.err.splitlines()) <= 5
    assert sorted(tmp_path.iterdir()) == before
    assert lepton(*given, "--json").error["type"] == "SampleError"


@pytest.mark.parametrize(
    ("source", "content", "code", "exit_code"),
    [
        ("missing.fake", None, "LPT-SRC-001", 2),
        ("model.pt", b"\x80\x04", "LPT-SRC-003", 2),
        ("model.onnx", b"not an onnx file", "LPT-PLUG-001", 4),
        ("factory.py", b"", "LPT-SRC-003", 2),
    ],
)
def test_bad_sources(lepton, tmp_path, source, content, code, exit_code):
    if content is not None:
        (tmp_path / source).write_bytes(content)
    ended = lepton("port", source, "--to", "fake", "--out", "out")
    assert ended.code == exit_code
    assert ended.err.startswith(f"error[{code}]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"width": 8}', b"\xff\xfe\x00"])
def test_a_corrupt_source_is_one_error(lepton, tmp_path, content):
    (tmp_path / "net.fake").write_bytes(content)
    ended = lepton("port", "net.fake", "--to", "fake", "--out", "out")
    assert ended.code in (1, 2)
    assert ended.err.startswith("error[")
    assert "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_not_installed_says_what_to_install(lepton, net):
    ended = lepton("port", net, "--to", "onnxruntime")
    assert ended.code == 4
    assert 'pip install "$(ls dist/lepton_onnxruntime-*.whl)[cpu]"' in ended.err
    assert "support: full" in ended.err


def test_a_place_that_is_not_ours_is_not_touched(lepton, net, samples, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years")
    ended = lepton("port", net, "--to", "fake", "--data", samples, "--out", out)
    assert ended.code == 5
    assert (out / "thesis.txt").read_text() == "ten years"
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_full_disk_leaves_nothing(lepton, net, samples, tmp_path, monkeypatch):
    from lepton_core.testing import _fake_graph

    places = []

    def full(graph, path, model):
        path.write_bytes(b"half")
        places.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(_fake_graph, "write", full)
    before = sorted(tmp_path.iterdir())
    ended = lepton("port", net, "--to", "fake", "--data", samples, "--out", tmp_path / "out")
    assert ended.code == 5
    assert ended.err.startswith("error[LPT-IO-001]")
    assert places
    assert sorted(tmp_path.iterdir()) == before


# --- Ctrl-C -----------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path):
    """A fake target whose conversion in a worker lasts for minutes; says when it has begun."""
    folder = tmp_path / "slow"
    info = folder / "fake_slow-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lepton.targets]\nfake = fake_slow.plugin\n")
    package = folder / "fake_slow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "info.py").write_text("from lepton_core.testing.fake_info import INFO\n")
    (package / "plugin.py").write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "from lepton_core.testing.fake_target import *\n"
        "from lepton_core.markers import hookimpl\n"
        "@hookimpl\n"
        "def lepton_convert(model, request, context):\n"
        "    (context.workdir / 'half').write_text('x')\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "    pathlib.Path(os.environ['BEGUN']).write_text(str(os.getpid()))\n"
        "    time.sleep(300)\n"
    )
    return folder


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently on Windows")
@pytest.mark.parametrize(
    ("number", "code", "json_mode"),
    [(signal.SIGINT, 130, False), (signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)],
)
def test_stopping_in_the_middle_leaves_nothing(
    tmp_path, slow, net, samples, number, code, json_mode
):
    begun, out = tmp_path / "begun", tmp_path / "result" / "out"
    arguments = ["port", net, "--to", "fake", "--precision", "fp32,fp16", "--data", samples]
    arguments += ["--out", out, *(["--json"] if json_mode else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton_core.cli", *map(str, arguments)],
        cwd=tmp_path,
        env=environment(paths=[slow], LEPTON_PLUGINS="fake", BEGUN=str(begun)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    until = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    began = time.monotonic()
    process.send_signal(number)
    printed, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == code
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not out.exists()
    assert not out.parent.exists(), "made for the result"
    if json_mode:
        assert json.loads(printed)["error"]["code"] == "LPT-STOP-001"
        assert said == ""
    else:
        assert printed == ""
        assert said.startswith("error[LPT-STOP-001]")
        assert len(said.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_bars_go_to_the_terminal_of_standard_error(tmp_path, net, samples):
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "lepton_core.cli", "port", str(net), "--to", "fake",
            "--data", str(samples), "--out", str(tmp_path / "out"), "--json",
        ],
        cwd=tmp_path,
        env=environment("ok", LEPTON_PLUGINS="fake", TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=slave,
    )  # fmt: skip
    os.close(slave)
    drawn = read_terminal(master)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(printed)["ok"] is True
    assert b"build" in drawn
    assert b"\x1b[" in drawn


def test_piped_progress_is_silent_and_sparse_with_v(command, net, samples, tmp_path):
    given = ("port", net, "--to", "fake", "--data", samples, "--out", tmp_path / "out")
    assert command(*given).err == ""
    lines = command(*given, "-v").err.splitlines()
    assert any(line.startswith("build") for line in lines)
    assert any("done (" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
