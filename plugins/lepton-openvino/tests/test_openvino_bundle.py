"""A bundle for OpenVINO runs where neither lepton nor onnx is, and notices every change."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_core

CODE = """
import sys, runpy
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0].startswith(('lepton', 'onnx', 'torch', 'openvino_telemetry')):
            raise ImportError(f'{name} must not be needed')
sys.meta_path.insert(0, No())
"""


@pytest.fixture
def bundle(tmp_path):
    """Deploy a product with two outputs, one of which is an input's own tensor, as a bundle."""
    weight = numpy_helper.from_array(np.full((4, 2), 1.5, np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
        ],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    out = tmp_path / "bundle"
    lepton_core.deploy(
        tmp_path / "net.onnx", name="net", target="openvino", kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )  # fmt: skip
    return out


def run(out, code):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-B", "-P", "-c", CODE + code],
        cwd=out, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_checks_itself(bundle):
    said = run(bundle, "runpy.run_path('run.py', run_name='__main__')")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("ok: every file, golden pairs within")
    about = json.loads((bundle / "lepton.json").read_text())
    assert (bundle / about["model"]).with_suffix(".bin").is_file()


def test_it_runs_by_name_with_any_batch_and_threads(bundle):
    code = """
import json, threading
import numpy as np
load = runpy.run_path('run.py')['load']
call = load(threads=2)
x = np.array([[1, -2, 0, 0], [1, 1, 1, 1], [0, 0, 0, -4]], np.float32)
found = [None] * 8
def work(n):
    found[n] = call({'x': x})
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
try:
    call({'y': x})
except ValueError as error:
    said = str(error)
print(json.dumps([{k: v.tolist() for k, v in f.items()} for f in found] + [said]))
"""
    done = run(bundle, code)
    assert done.returncode == 0, done.stderr
    *found, said = json.loads(done.stdout)
    for one in found:
        assert one["y"] == [[-1.5, -1.5], [6.0, 6.0], [-6.0, -6.0]]
        assert one["z"] == [[0.0, 0.0], [6.0, 6.0], [0.0, 0.0]]
    assert "the inputs are x" in said


def test_changed_values_are_refused(bundle):
    path = bundle / "model" / "model.bin"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    said = run(bundle, "runpy.run_path('run.py', run_name='__main__')")
    assert said.returncode == 1
    assert "is not the file that was shipped" in said.stderr
    assert "Traceback" not in said.stderr
