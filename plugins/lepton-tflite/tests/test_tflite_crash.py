"""What is known of a crash inside litert-torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_core.context import SilentReporter
from lepton_core.dispatch import Hooks
from lepton_core.errors import ConversionError, WorkerCrashError
from lepton_core.registry import Registry
from lepton_core.types import ConvertRequest
from lepton_core.workers import WorkerPool
from lepton_tflite import plugin

pytestmark = pytest.mark.xdist_group("tflite")

# Python runs a module of this name when it starts, so it is in the worker before the converter.
CUSTOMIZE = """
import importlib.abc
import importlib.util
import sys


class Breaks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name != "litert_torch.backend.export":
            return None
        sys.meta_path.remove(self)
        self.spec = importlib.util.find_spec(name)
        self.run, self.spec.loader.exec_module = self.spec.loader.exec_module, self.exec_module
        return self.spec

    def exec_module(self, module):
        self.run(module)
        plain = module.LoweringInterpreter.call_function

        def call_function(interpreter, target, args, kwargs):
            if "max_pool" in str(target):
                import ctypes
                import os

                os.write(2, b"LLVM ERROR: a broken invariant\\n")
                ctypes.string_at(0)
            return plain(interpreter, target, args, kwargs)

        module.LoweringInterpreter.call_function = call_function


sys.meta_path.insert(0, Breaks())
"""


# A pass over the whole graph: what it falls over is not told before.
IN_A_PASS = (
    CUSTOMIZE.replace("litert_torch.backend.export", "litert_torch._convert.litert_converter")
    .replace("LoweringInterpreter.call_function", "LazyModelExporter.to_bytes")
    .replace("call_function(interpreter, target, args, kwargs)", "to_bytes(exporter)")
    .replace("plain(interpreter, target, args, kwargs)", "plain(exporter)")
    .replace('"max_pool" in str(target)', '"max_pool" in str(exporter._module_op)')
    .replace("= call_function", "= to_bytes")
)
REFUSES = IN_A_PASS.replace("ctypes.string_at(0)", "raise RuntimeError('a pass failed')")


@pytest.fixture
def broken(tmp_path, monkeypatch, request):
    """Let litert-torch fall over a null pointer where it lowers a pooling, or as is asked for."""
    (tmp_path / "site").mkdir()
    code = getattr(request, "param", CUSTOMIZE)
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "site"


def test_every_operator_is_told_before_it_is_lowered(pivot, context):
    said = []
    told = SilentReporter()
    told.about_to = lambda *word: said.append(word)
    plugin.lepton_convert(pivot, ConvertRequest("tflite"), replace(context, reporter=told))
    operators = [(operator, where) for _, operator, where, _ in said if operator]
    for found in (("Conv", "node 'c'"), ("MaxPool", "node 'p'"), ("Gemm", "node 'g'")):
        assert found in operators
    steps = [step for step, *_ in said]
    assert steps[0] == "reading the graph"
    assert steps[-1] == "running the converted file"
    assert "running litert-torch's step 'Write Model to Bytes'" in steps
    assert not Path(said[0][3]).exists(), "a conversion that succeeds leaves no reproducer"


@pytest.mark.conformance
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_segmentation_fault_is_named_and_leaves_its_reproducer(broken, pivot, context):
    with WorkerPool() as pool, pytest.raises(ConversionError) as caught:
        Hooks(Registry(), pool).convert(pivot, ConvertRequest("tflite"), context)
    error = caught.value
    assert error.code == "LPT-CONV-001"
    assert isinstance(error.__cause__, WorkerCrashError)
    assert error.details["worker"]["code"] == "LPT-WORK-003"
    assert error.details["worker"]["details"]["returncode"] == -11
    assert error.details["operator"] == "MaxPool"
    assert error.details["where"] == "node 'p'"
    assert "while lowering the graph with litert-torch" in error.message
    assert "ctypes/__init__.py" in error.cause.splitlines()[1]
    assert "LLVM ERROR: a broken invariant" in error.cause, "what native code says goes to the log"
    folder = Path(error.details["reproducer"])
    assert sorted(p.name for p in folder.iterdir()) == ["convert.py", "model.onnx"]

    again = subprocess.run(
        [sys.executable, str(folder / "convert.py")],
        env={**os.environ, "PYTHONPATH": str(broken)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == -11


@pytest.mark.conformance
@pytest.mark.timeout(1500)
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("broken", "code", "ends"),
    [(IN_A_PASS, "LPT-CONV-001", -11), (REFUSES, "LPT-CONV-402", 1)],
    indirect=["broken"],
    ids=["crash", "refusal"],
)
def test_what_a_pass_falls_over_is_found_by_converting_parts(
    broken, code, ends, pivot, context, monkeypatch
):
    monkeypatch.setenv("LEPTON_NARROW_SECONDS", "900")
    with WorkerPool() as pool, pytest.raises(ConversionError) as caught:
        Hooks(Registry(), pool).convert(pivot, ConvertRequest("tflite"), context)
    error = caught.value
    assert error.code == code
    assert "at the operator 'MaxPool' (node 'p')" in error.message
    assert error.details["operator"] == "MaxPool"
    assert error.details["where"] == "node 'p'"
    assert error.details["part"] == ["p"]
    assert error.details["parts_tried"] <= 6
    assert "1 of its 8 nodes are enough (p)" in error.cause
    assert Path(error.details["whole_reproducer"], "convert.py").exists()
    folder = Path(error.details["reproducer"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "call.json", "convert.py", "log.txt", "model.onnx",
    ]  # fmt: skip
    left = sorted(p.name for p in folder.parent.glob("lepton-*"))
    assert left == sorted((folder.name, Path(error.details["whole_reproducer"]).name))

    again = subprocess.run(
        [sys.executable, str(folder / "convert.py")],
        env={**os.environ, "PYTHONPATH": f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == ends, again.stderr
    assert ends < 0 or "a pass failed" in again.stderr


def test_without_a_budget_the_step_alone_is_named(monkeypatch, pivot, context):
    from lepton_core import narrowing
    from lepton_tflite import info

    monkeypatch.setenv("LEPTON_NARROW_SECONDS", "0")
    error = ConversionError("LPT-CONV-402", "no", details={"operator": ""})
    place = replace(context, hooks=Hooks(Registry(), WorkerPool()))
    asked = ConvertRequest("tflite")
    assert narrowing.narrowed(error, info.INFO, pivot, asked, place) is error
