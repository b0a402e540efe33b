"""A bundle for LiteRT runs where lepton is not, and carries a class for Android."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest

import lepton_core
from lepton_core.types import Model, Signature, TensorSpec
from lepton_tflite.bundle_files import files

pytestmark = pytest.mark.xdist_group("tflite")

CODE = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0].startswith(('lepton', 'onnx', 'torch')):
            raise ImportError(f'{name} must not be needed')
sys.meta_path.insert(0, No())
"""


@pytest.fixture
def bundle(single, tmp_path):
    out = tmp_path / "bundle"
    lepton_core.deploy(
        single.model, name="small-net", target="tflite:android-arm64", kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )  # fmt: skip
    return out


def run(out, code):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-B", "-P", "-c", CODE + code],
        cwd=out, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_runs_without_lepton_and_gives_the_sessions_numbers(bundle, single, opened, graphs):
    inputs = graphs.inputs(3)
    np.savez(bundle.parent / "inputs.npz", **inputs)
    done = run(
        bundle,
        "import numpy as np; sys.path.insert(0, '.'); from run import load\n"
        "given = dict(np.load('../inputs.npz'))\n"
        "np.savez('../outputs.npz', **load(threads=1)(given))",
    )
    assert done.returncode == 0, done.stderr
    found = dict(np.load(bundle.parent / "outputs.npz"))
    for name, wanted in opened(single.model).run(inputs).items():
        assert found[name].dtype == wanted.dtype
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)


def test_a_wrong_shape_is_refused_and_the_next_call_runs(bundle, graphs):
    call = runpy.run_path(str(bundle / "runtime.py"))["load"](bundle / "model" / "model.tflite", 1)
    good = graphs.inputs(2)
    wanted = call(good)["scores"]
    for wrong in (
        {"image": np.ones((2, 1, 7, 8), "f4")},
        {"image": np.ones((3, 1, 8, 8), "f4")},
        {"kind": np.zeros((2, 1), "i8")},
        {"image": np.ones((0, 1, 8, 8), "f4"), "kind": np.zeros(0, "i8")},
    ):
        with pytest.raises(ValueError, match="has the shape"):
            call({**good, **wrong})
    with pytest.raises((ValueError, RuntimeError)):
        call({**good, "kind": np.array([9, 9])})
    np.testing.assert_array_equal(call(good)["scores"], wanted)


def test_a_changed_file_is_noticed(bundle):
    with (bundle / "SmallNet.kt").open("a") as stream:
        stream.write("//")
    done = run(bundle, "import runpy; runpy.run_path('run.py', run_name='__main__')")
    assert done.returncode
    assert "SmallNet.kt" in done.stderr


def test_the_class_names_what_the_file_names(bundle):
    text = (bundle / "SmallNet.kt").read_text()
    assert "class SmallNet(" in text
    assert '"image" to buffer(256)' in text  # 1 x 1 x 8 x 8 floats
    assert '"kind" to buffer(4)' in text  # int64 has 32 bits in the file
    assert '"scores" to buffer(20)' in text
    assert '"serving_default"' in text
    assert "model.tflite" in text


def test_names_are_quoted_as_kotlin_wants():
    spec = TensorSpec('a"$b', "float32", (1,))
    model = Model("tflite", "/x/model.tflite", signature=Signature((spec,), (spec,)))
    (name, text), *_ = files(model, "3-net v2").items()
    assert name == "Model3NetV2.kt"
    assert '"a\\"\\$b" to buffer(4)' in text


def test_what_kotlin_gives_a_meaning_is_no_name_and_no_comment():
    spec = TensorSpec("a/*\nb*/", "float32", (1,))
    model = Model("tflite", "/x/$m.tflite", signature=Signature((spec,), (spec,)))
    ((name, text),) = files(model, "fun").items()
    assert (name, "package lepton.fun_\n" in text) == ("Fun.kt", True)
    assert '"a/*\\u000ab*/" to buffer(4),  // float32, a/ * b* /: float32[1]\n' in text
    assert 'asset: String = "\\$m.tflite"' in text
    bare = text.replace('"a/*\\u000ab*/"', "")
    assert bare.count("/*") == bare.count("*/") == 4
    assert list(files(model, "interpreter")) == ["ModelInterpreter.kt"]


def test_what_is_shipped_runs_on_python_3_9(bundle):
    """tflite-runtime is there for it; `strict` of zip and unions of types are of 3.10."""
    for name in ("run.py", "runtime.py"):
        tree = ast.parse((bundle / name).read_text(encoding="utf-8"), feature_version=(3, 9))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            assert not any(keyword.arg == "strict" for keyword in call.keywords), call.lineno
            assert not any(isinstance(given, ast.BinOp) and isinstance(given.op, ast.BitOr)
                           for given in call.args), call.lineno  # fmt: skip
