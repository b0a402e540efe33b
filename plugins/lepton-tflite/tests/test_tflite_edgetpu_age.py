"""What an interpreter as old as Google's compiler for Edge TPUs makes of products.

The compiler is of July 2021; TensorFlow Lite 2.6 came in August. Its build for Java on Linux is to
be had, and shows what runs on the host for operators that are not mapped.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_tflite import _flatbuffer as flat
from lepton_tflite._edgetpu_products import as_convolutions

HERE = Path(__file__).with_name("edgetpu")
GRID = (0.05, 3)

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("tflite"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64")
        or not (shutil.which("java") and shutil.which("mvn")),
        reason="needs Linux on x86_64, and java and mvn on the PATH",
    ),
]


@pytest.fixture(scope="module")
def run_old(tmp_path_factory):
    """Run files of one input and one output of int8 on that interpreter."""
    place = tmp_path_factory.mktemp("old")

    def call(*command):
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    call("mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:build-classpath",
         f"-Dmdep.outputFile={place}/path.txt")  # fmt: skip
    for path in map(Path, (place / "path.txt").read_text().strip().split(os.pathsep)):
        with zipfile.ZipFile(path) as archive:
            if path.suffix == ".aar":
                archive.extract("classes.jar", place)
            elif path.stem.startswith("tflite-native-cpu"):
                archive.extract("native/lib/libtensorflowlite_jni.so", place)

    def run(model, x):
        file = place / "model.tflite"
        file.write_bytes(flat.pack(model))
        file.with_name("model.tflite.in").write_bytes(x.tobytes())
        call("java", f"-Djava.library.path={place}/native/lib", "-cp", place / "classes.jar",
             HERE / "Run.java", file)  # fmt: skip
        return np.frombuffer(file.with_name("model.tflite.out").read_bytes(), np.int8)

    return run


def run_new(model, x):
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_content=flat.pack(model))
    found.allocate_tensors()
    found.set_tensor(found.get_input_details()[0]["index"], x)
    found.invoke()
    return found.get_tensor(found.get_output_details()[0]["index"]).reshape(-1)


def product(handmade, scale):
    rng = np.random.default_rng(0)
    tensors = {
        "x": ("int8", (1, 12), None, GRID),
        "w": ("int8", (5, 12), rng.integers(-127, 128, (5, 12)), (scale, 0)),
        "b": ("int32", (5,), rng.integers(-500, 500, 5), (np.float32(GRID[0]) * scale, 0)),
        "y": ("int8", (1, 5), None, (0.11, -4)),
    }
    options = handmade.options("FullyConnectedOptions")
    return flat.unpack(
        handmade.file_of(tensors, [("FULLY_CONNECTED", ["x", "w", "b"], ["y"], options)],
                         ["x"], ["y"])
    )  # fmt: skip


def test_scales_by_output_are_known_to_convolutions_alone(run_old, handmade):
    x = np.random.default_rng(1).integers(-128, 128, (1, 12)).astype(np.int8)
    single = product(handmade, np.float32(0.01))
    np.testing.assert_array_equal(run_old(single, x), run_new(single, x))

    many = product(handmade, np.linspace(0.002, 0.02, 5).astype("f4"))
    wanted = run_new(many, x)
    assert len(np.unique(wanted)) > 2
    np.testing.assert_array_equal(run_old(many, x), np.full(5, -4))  # zero points, without a word
    assert as_convolutions(many) == 1
    np.testing.assert_array_equal(run_old(many, x), wanted)
