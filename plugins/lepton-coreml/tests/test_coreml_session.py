"""Opening packages: what is run, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lepton_core.cli import main
from lepton_core.errors import LeptonError
from lepton_core.types import Model
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._write import MODEL, WEIGHTS


def refused(opened, model, **wanted):
    with pytest.raises(LeptonError) as caught:
        opened(model, **wanted)
    assert caught.value.remedy
    return caught.value


def rewritten(model, change):
    """Change a package's messages and write them back."""
    package = open_package(Path(model.path))
    message = package.message()
    change(message)
    package.model_file.write_bytes(message.SerializeToString(deterministic=True))
    return model


def test_a_classic_model_is_refused(opened, tmp_path):
    path = tmp_path / "old.mlmodel"
    path.write_bytes(b"\x08\x01")
    error = refused(opened, Model("coreml", str(path)))
    assert error.code == "LPT-RUN-501"
    assert "classic" in error.cause


@pytest.mark.parametrize("name", ["old.mlmodel", "alone.mlpackage"])
def test_the_command_line_says_what_such_a_file_is(name, copied, tmp_path, capsys):
    path = tmp_path / name
    if name == "alone.mlpackage":
        Path(copied().path).rename(path)
    else:
        path.write_bytes(b"\x08\x01")
    deployed = ["deploy", path, "--to", "coreml", "--name", "x", "--store", tmp_path / "s"]
    for given in (["open", path], ["convert", path, "--to", "coreml"], deployed):
        assert main([str(part) for part in given]) != 0
        said = capsys.readouterr().err
        assert "LPT-SRC-003" in said and "is of the form that Core ML runs" in said
    if name == "old.mlmodel":
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 8), "f4"))
        assert main(["bisect", str(path), str(path), "--data", str(tmp_path / "x.npz")]) != 0
        assert "LPT-RUN-501" in capsys.readouterr().err


def test_a_folder_that_is_no_package_is_refused(opened, tmp_path):
    assert refused(opened, Model("coreml", str(tmp_path))).code == "LPT-RUN-501"


def test_a_neural_network_in_a_package_is_refused(opened, copied):
    model = rewritten(copied(), lambda message: message.ClearField("mlProgram"))
    assert refused(opened, model).code == "LPT-RUN-501"


def test_a_newer_package_is_refused(opened, copied):
    def newer(message):
        message.specificationVersion = 99

    error = refused(opened, rewritten(copied(), newer))
    assert error.code == "LPT-RUN-503"
    assert "99" in error.cause


@pytest.mark.parametrize("file", ["Manifest.json", MODEL, WEIGHTS])
@pytest.mark.parametrize("left", [0, 20, 0.5])
def test_a_truncated_package_is_refused(opened, copied, file, left):
    model = copied()
    path = Path(model.path) / file
    data = path.read_bytes()
    path.write_bytes(data[: left if isinstance(left, int) else int(len(data) * left)])
    assert refused(opened, model).code in ("LPT-RUN-501", "LPT-RUN-502", "LPT-RUN-505")


@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_a_missing_part_is_refused(opened, copied, file):
    model = copied()
    (Path(model.path) / file).unlink()
    assert refused(opened, model).code in ("LPT-RUN-502", "LPT-RUN-505")


def test_other_weights_are_refused(opened, copied):
    model = copied()
    path = Path(model.path) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert refused(opened, model).code == "LPT-RUN-505"


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "com.apple.CoreML/../../../x"])
def test_a_manifest_does_not_lead_out(opened, copied, path):
    model = copied()
    file = Path(model.path) / "Manifest.json"
    manifest = json.loads(file.read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = path
    file.write_text(json.dumps(manifest))
    assert refused(opened, model).code == "LPT-RUN-504"


@pytest.mark.parametrize(
    "name", ["@model_path/../../x.bin", "/tmp/x.bin", "@model_path//etc/passwd"]
)
def test_a_constant_does_not_lead_out(opened, copied, name):
    def lead_out(message):
        for block in message.mlProgram.functions["main"].blocks.values():
            for operation in block.operations:
                value = operation.attributes["val"] if operation.type == "const" else None
                if value is not None and value.WhichOneof("kind") == "blobFileValue":
                    value.blobFileValue.fileName = name

    assert refused(opened, rewritten(copied(), lead_out)).code == "LPT-RUN-504"


def test_a_link_does_not_lead_out(opened, copied, tmp_path):
    model = copied()
    path = Path(model.path) / WEIGHTS
    shutil.copy(path, tmp_path / "outside.bin")
    path.unlink()
    os.symlink(tmp_path / "outside.bin", path)
    assert refused(opened, model).code == "LPT-RUN-504"


def test_an_unknown_operator_is_named(opened, copied):
    def unknown(message):
        for block in message.mlProgram.functions["main"].blocks.values():
            next(op for op in block.operations if op.type == "relu").type = "warp"

    error = refused(opened, rewritten(copied(), unknown))
    assert error.code == "LPT-RUN-506"
    assert "warp" in error.message


def test_options_and_devices_are_checked(opened, converted):
    model = converted("perceptron").model
    assert refused(opened, model, options={"speed": 1}).code == "LPT-RUN-510"
    assert refused(opened, model, device="watch").code == "LPT-RUN-510"
    for device in ("ios18", "reference"):
        assert opened(model, device=device).facts["device"] == "reference"


def test_a_closed_session_says_so(opened, converted, feeds):
    session = opened(converted("perceptron").model)
    session.close()
    with pytest.raises(LeptonError) as caught:
        session.run(feeds("perceptron"))
    assert caught.value.code == "LPT-RUN-511"


def test_integers_beyond_32_bits_are_refused(opened, converted, feeds):
    feed = feeds("tokens")
    feed["ids"] = feed["ids"] + 2**40
    with pytest.raises(LeptonError) as caught:
        opened(converted("tokens").model).run(feed)
    assert caught.value.code == "LPT-RUN-507"


def test_an_index_out_of_range_is_an_error(opened, converted, feeds):
    feed = feeds("tokens")
    feed["ids"][0, 0] = 99
    with pytest.raises(LeptonError) as caught:
        opened(converted("tokens").model).run(feed)
    assert caught.value.code == "LPT-RUN-506"


def test_a_package_of_someone_else_gets_its_own_signature(opened, copied, feeds):
    def forget(message):
        message.description.metadata.userDefined.clear()

    model = rewritten(copied(), forget).evolve(signature=None)
    session = opened(model)
    assert [s.name for s in session.signature.inputs] == ["x"]
    assert session.signature.inputs[0].dtype == "float32"
    assert session.run(feeds("perceptron"))["y"].shape == (3, 4)


def test_its_outputs_have_the_shapes_of_its_program(opened, copied):
    """coremltools states no shapes of outputs: one number is not a scalar for that."""

    def forget(message):
        message.description.metadata.userDefined.clear()
        for feature in message.description.output:
            feature.type.multiArrayType.ClearField("shape")
            feature.type.multiArrayType.ClearField("shapeRange")

    session = opened(rewritten(copied("tokens"), forget).evolve(signature=None))
    specs = {s.name: s for s in session.signature.outputs}
    assert len(specs["y"].shape) == 2
    assert len(specs["best"].shape) == 1
    feed = {"ids": np.zeros((1, 6), "i4"), "mask": np.ones((1, 6), "i4")}
    assert session.run(feed)["best"].shape == (1,)


def spoiled_note(message):
    message.description.metadata.userDefined["lepton.signature"] = "{"


def spoiled_constant(message):
    block = next(iter(message.mlProgram.functions["main"].blocks.values()))
    next(op for op in block.operations if op.type == "const").attributes.clear()


def spoiled_output(message):
    block = next(iter(message.mlProgram.functions["main"].blocks.values()))
    block.outputs[0] = "elsewhere"


def spoiled_description(message):
    message.description.output[0].name = "elsewhere"


@pytest.mark.parametrize(
    "change", [spoiled_note, spoiled_constant, spoiled_output, spoiled_description]
)
def test_a_spoiled_program_is_called_damaged(opened, copied, change):
    model = rewritten(copied(), change).evolve(signature=None)
    assert refused(opened, model).code == "LPT-RUN-502"


def test_inputs_may_be_int8(opened, copied):
    def narrow(message):
        for feature in message.description.input:
            feature.type.multiArrayType.dataType = 131080
        message.description.metadata.userDefined.pop("lepton.signature")

    session = opened(rewritten(copied("tokens"), narrow).evolve(signature=None))
    assert {s.dtype for s in session.signature.inputs} == {"int8"}


def test_what_core_ml_refuses_to_run_is_an_error_of_ours():
    """What coremltools raises outside of a Mac stands for what it raises on one."""
    from lepton_coreml._session import _Mac

    class Model:
        def predict(self, inputs):
            raise RuntimeError("Error in declaring network.")

    engine = _Mac.__new__(_Mac)
    engine._model = Model()
    with pytest.raises(LeptonError) as caught:
        engine.run({})
    assert caught.value.code == "LPT-RUN-512"
    assert "declaring network" in caught.value.cause


def test_one_thread_at_a_time_collects_what_coremltools_says():
    from lepton_coreml._coremltools import captured

    order, inside = [], threading.Event()

    def other():
        inside.wait()
        with captured():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with captured(), captured():  # the lock is taken twice by one thread, as build does
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_the_recorded_signature_is_read_back(opened, converted):
    model = converted("tokens").model
    session = opened(model.evolve(signature=None))
    assert session.signature == model.signature


def test_a_session_needs_neither_coremltools_nor_torch(converted, tmp_path):
    """Where a package is only run, neither is imported: opening takes a fraction of a second."""
    program = """
import sys
import threading
from pathlib import Path
import numpy as np
from lepton_core.context import Context
from lepton_core.types import Model, OpenRequest
from lepton_coreml import plugin
model, request = Model("coreml", sys.argv[1]), OpenRequest("coreml")
with plugin.lepton_open(model, request, Context(Path("."))) as s:
    assert s.run({"x": np.zeros((2, 8), "f4")})["y"].shape == (2, 4)
print(sorted({"coremltools", "torch", "onnx"} & set(sys.modules)))
"""
    path = converted("perceptron").model.path
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_threads_may_share_a_session(opened, converted, feeds):
    from concurrent.futures import ThreadPoolExecutor

    session = opened(converted("network").model)
    jobs = [feeds("network", rows) for rows in (1, 2, 3, 4)] * 3
    alone = [session.run(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(session.run, jobs), strict=True):
            for name, array in one.items():
                np.testing.assert_array_equal(array, other[name])
