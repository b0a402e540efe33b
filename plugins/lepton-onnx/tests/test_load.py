"""Bad files: each has its own code, and none shows a traceback of a library."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper

from lepton_core.artifacts import artifact_files, verify_artifact
from lepton_core.errors import LeptonError, SessionError, SourceError
from lepton_core.types import ConvertRequest, InspectRequest, Model
from lepton_onnx import pivot, plugin, signature
from lepton_onnx.external import digest, external_files


def code_of(function, *args):
    with pytest.raises(SourceError) as caught:
        function(*args)
    assert caught.value.remedy
    return caught.value.code


@pytest.fixture
def external(tmp_path, graphs):
    """A model whose weight stands in ``w.bin`` beside it; returns a function to move it."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 64)).astype("f4")
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", 64])],
        [graphs.value("y", ["n", 64])],
        [graphs.weight("w", weights)],
    )
    folder = tmp_path / "model"
    folder.mkdir()

    def write(location="w.bin", length=weights.nbytes, data=b""):
        tensor = proto.graph.initializer[0]
        tensor.raw_data = weights.tobytes()
        external_data_helper.set_external_data(tensor, location, offset=0, length=length)
        tensor.ClearField("raw_data")
        path = folder / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        if data is not None:
            (folder / "w.bin").write_bytes(data or weights.tobytes())
        return path

    return write


def test_missing_directory_and_empty(tmp_path):
    assert code_of(pivot.load, tmp_path / "no.onnx") == "LPT-SRC-201"
    assert code_of(pivot.load, tmp_path) == "LPT-SRC-202"
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert code_of(pivot.load, tmp_path / "empty.onnx") == "LPT-SRC-203"


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"PK\x03\x04aaaa", "zip"),
        (b"\x80\x04\x95", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"\n<!DOCTYPE html>", "HTML"),
    ],
)
def test_foreign_files_are_recognised(tmp_path, head, word):
    path = tmp_path / "model.onnx"
    path.write_bytes(head)
    with pytest.raises(SourceError) as caught:
        pivot.check(path)
    assert caught.value.code == "LPT-SRC-205"
    assert word in caught.value.cause


def test_every_cut_is_a_clear_error(tmp_path, graphs):
    data = graphs.mlp().SerializeToString()
    path, out = tmp_path / "cut.onnx", tmp_path / "out.onnx"
    refused = 0
    for cut in range(0, len(data), 3):
        path.write_bytes(data[:cut])
        try:
            pivot.check(path)
            pivot.freeze(path, out)
        except LeptonError as error:
            refused += 1
            assert error.code.startswith("LPT-SRC-2")
            assert not out.exists()
    assert refused == len(range(0, len(data), 3))


@pytest.mark.parametrize("builder", ["mlp", "branches"])
def test_flipped_bytes_never_show_a_foreign_error(tmp_path, graphs, builder):
    data = getattr(graphs, builder)().SerializeToString()
    path, out = tmp_path / "flip.onnx", tmp_path / "out.onnx"
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            signature(path)
            pivot.check(path)
            pivot.freeze(path, out)
        except LeptonError:
            refused += 1
    assert refused > 100


def test_versions_that_are_too_new(tmp_path, graphs):
    path = tmp_path / "new.onnx"
    proto = graphs.mlp()
    proto.ir_version = onnx.IR_VERSION + 1
    path.write_bytes(proto.SerializeToString())
    assert code_of(pivot.read, path) == "LPT-SRC-206"
    proto = graphs.mlp()
    proto.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    path.write_bytes(proto.SerializeToString())
    assert code_of(pivot.read, path) == "LPT-SRC-207"


def test_invalid_graphs(graphs):
    unknown = graphs.mlp()
    unknown.graph.node[0].op_type = "MatMull"
    assert code_of(pivot.check, unknown) == "LPT-SRC-211"
    dangling = graphs.mlp()
    dangling.graph.node[0].input[0] = "nothing"
    assert code_of(pivot.check, dangling) == "LPT-SRC-211"
    wrong_shape = graphs.mlp()
    wrong_shape.graph.initializer[0].CopyFrom(graphs.weight("fc.weight", np.ones((3, 4), "f4")))
    assert code_of(pivot.check, wrong_shape) in ("LPT-SRC-211", "LPT-SRC-212")
    short = graphs.mlp()
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-4]
    assert code_of(pivot.check, short) == "LPT-SRC-211"


def test_external_data_is_read_and_digested(external):
    path = external()
    assert pivot.load(path).graph.initializer[0].data_location == TensorProto.DEFAULT
    assert [f.name for f in external_files(path)] == ["w.bin"]
    before = digest(path)
    data = bytearray((path.parent / "w.bin").read_bytes())
    data[7] ^= 1
    (path.parent / "w.bin").write_bytes(bytes(data))
    assert digest(path) != before


def test_a_model_with_external_data_is_the_one_that_was_read(external, context):
    path = external()
    read = plugin.lepton_inspect(Model("onnx", str(path)), InspectRequest(), context).model
    assert [file.name for file in artifact_files(read)] == ["m.onnx", "w.bin"]
    verify_artifact(read)  # what every session does before it opens a file
    made = plugin.lepton_convert(read, ConvertRequest("any", "pivot"), context).model
    assert artifact_files(made) == (Path(made.path),)
    data = bytearray((path.parent / "w.bin").read_bytes())
    data[7] ^= 1
    (path.parent / "w.bin").write_bytes(bytes(data))
    with pytest.raises(SessionError, match="LPT-RUN-003"):
        verify_artifact(read)


@pytest.mark.parametrize(
    "location", ["../w.bin", "a/../../w.bin", "/etc/hostname", "C:\\w.bin", "..\\w.bin", ""]
)
def test_external_data_elsewhere_is_refused(external, tmp_path, location):
    (tmp_path / "w.bin").write_bytes(b"0" * 16384)
    path = external(location)
    for function in (pivot.load, pivot.check, digest):
        assert code_of(function, path) == "LPT-SRC-208"
    assert code_of(pivot.freeze, path, tmp_path / "out.onnx") == "LPT-SRC-208"


def test_external_data_behind_a_link_is_refused_unless_the_model_is_linked_too(external, tmp_path):
    path = external()
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (path.parent / "w.bin").rename(blobs / "b1")
    (path.parent / "w.bin").symlink_to(blobs / "b1")
    assert code_of(pivot.load, path) == "LPT-SRC-208"
    path.rename(blobs / "b2")
    path.symlink_to(blobs / "b2")  # the layout of a hub's cache
    assert pivot.load(path).graph.initializer[0].raw_data
    pivot.check(path)


def test_external_data_missing_or_short(external):
    path = external(data=None)
    assert code_of(pivot.load, path) == "LPT-SRC-209"
    path = external(data=b"0" * 100)
    assert code_of(pivot.load, path) == "LPT-SRC-210"
    path = external(length=8)
    assert code_of(pivot.load, path) == "LPT-SRC-210"


def test_signature_names_symbols_and_skips_weights(graphs):
    found = signature(graphs.mlp())
    assert str(found) == "(x: float32[batch, 8]) -> (y: float32[batch, 4])"
    old = graphs.mlp(opset=9, ir=3)
    old.graph.input.append(graphs.value("fc.weight", [8, 4]))
    assert [spec.name for spec in signature(old).inputs] == ["x"]
