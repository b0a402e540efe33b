"""Reading and checking ONNX files; every way in which a file can be bad has its own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from lepton_core.errors import SourceError
from lepton_onnx._external import load_external
from lepton_onnx._parked import park, with_inputs_for_weights
from lepton_onnx._protobuf import opset_of, walk_graphs, walk_nodes, walk_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOBUF_LIMIT = (1 << 31) - 1
"""Largest serialised message that protobuf reads or writes, in bytes."""

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (PyTorch, Keras or Core ML save such files)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<!DOCTYPE", "an HTML page: a download that failed"),
    (b"<html", "an HTML page: a download that failed"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"ORTM", "an ORT format file"),
)


def read(model: ModelProto | str | Path) -> ModelProto:
    """Return a model's structure: parsed and of a version we know, external data not read.

    Args:
        model: A model (returned as it is) or the path of a file.

    Raises:
        SourceError: LPT-SRC-201 … 207.
    """
    if isinstance(model, ModelProto):
        proto = model
        name = "the model"
    else:
        proto = _parse(Path(model))
        name = str(model)
    _check_versions(proto, name)
    return proto


def load(path: str | Path) -> ModelProto:
    """Load a model whole, external data included.

    Args:
        path: An ``.onnx`` file.

    Returns:
        The model with every tensor in memory; it may be larger than protobuf can serialise.

    Raises:
        SourceError: LPT-SRC-201 … 210.
    """
    proto = read(path)
    load_external(proto, Path(path))
    return proto


def check(model: ModelProto | str | Path) -> ModelProto:
    """Check a model fully: ONNX's checker with strict shape inference, and external data.

    Args:
        model: A model or a path, of any size; large weights are not read.

    Returns:
        The model's structure, external data not read.

    Raises:
        SourceError: LPT-SRC-201 … 212; the cause names the node or value.
    """
    proto = read(model)
    path = None if isinstance(model, ModelProto) else Path(model)
    name = "The model" if path is None else str(path)
    light = park(proto, path).model
    try:
        onnx.checker.check_model(with_inputs_for_weights(light), full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise _invalid("LPT-SRC-212", f"Shapes in {name} contradict each other", error) from error
    except (onnx.checker.ValidationError, ValueError, RuntimeError, EncodeError) as error:
        raise _invalid("LPT-SRC-211", f"{name} is not a valid ONNX model", error) from error
    return proto


def _invalid(code: str, message: str, error: Exception) -> SourceError:
    cause = " ".join(str(error).split())[:800]
    return SourceError(
        code,
        message,
        cause=cause,
        remedy="Export the model again with a current exporter, or repair the node named here.",
    )


def _parse(path: Path) -> ModelProto:
    data = _read_file(path)
    head = bytes(data[:64]).lstrip()
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise SourceError(
                "LPT-SRC-205",
                f"{path} is not an ONNX file",
                cause=f"It looks like {what}.",
                remedy="Name the .onnx file, or name the model by its own kind of source.",
            )
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise _damaged(path, f"{error}; the file has {len(data):,} bytes.") from error
    if not proto.ir_version or not (proto.graph.output or proto.graph.node):
        raise _damaged(path, "It holds no version or no graph.")
    if not all(isinstance(text, str) for text in _texts(proto)):
        raise _damaged(path, "A name in it is not valid UTF-8.")
    if not proto.opset_import:
        raise _damaged(path, "It names no operator set; the end of the file may be missing.")
    return proto


def _texts(proto: ModelProto) -> Iterator[object]:
    """Yield the names in a model; protobuf hands out bytes for one that is not valid UTF-8."""
    for entry in proto.opset_import:
        yield entry.domain
    for node in walk_nodes(proto):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in walk_graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in walk_tensors(proto):
        yield tensor.name
        yield from (entry.value for entry in tensor.external_data)


def _read_file(path: Path) -> memoryview:
    try:
        if not path.exists():
            raise SourceError(
                "LPT-SRC-201",
                f"There is no file {path}",
                remedy="Check the path; quote it if it holds spaces.",
            )
        if not path.is_file():
            raise SourceError(
                "LPT-SRC-202",
                f"{path} is not a file",
                remedy="Name the .onnx file inside it.",
            )
        size = path.stat().st_size
        if size > PROTOBUF_LIMIT:
            raise SourceError(
                "LPT-SRC-204",
                f"{path} is too large to be read: {size:,} bytes",
                cause="An ONNX file can be read up to 2 GiB; larger weights stand beside it.",
                remedy="Save it with onnx.save(model, path, save_as_external_data=True).",
            )
        data = _read_whole(path, size)
    except OSError as error:
        raise SourceError(
            "LPT-SRC-202",
            f"{path} cannot be read",
            cause=str(error),
            remedy="Check that the file is there and that you may read it.",
        ) from error
    if not data:
        raise _damaged(path, "The file is empty.")
    return data


def _read_whole(path: Path, size: int) -> memoryview:
    """Read a file into memory that comes in large pages, which takes half of the time."""
    buffer = np.empty(size, np.uint8)
    with path.open("rb", buffering=0) as stream:
        filled = 0
        while filled < size and (count := stream.readinto(memoryview(buffer)[filled:])):
            filled += count
    return memoryview(buffer)[:filled]


def _damaged(path: Path, cause: str) -> SourceError:
    return SourceError(
        "LPT-SRC-203",
        f"{path} is corrupt or truncated, or is no ONNX file",
        cause=cause,
        remedy="Copy or download the file again and compare its size, or export it again.",
    )


def _check_versions(proto: ModelProto, name: str) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise SourceError(
            "LPT-SRC-206",
            f"{name} has IR version {proto.ir_version}; onnx {onnx.__version__} reads up to "
            f"{onnx.IR_VERSION}",
            remedy="Upgrade onnx, or export the model with an older exporter.",
        )
    newest = onnx.defs.onnx_opset_version()
    if opset_of(proto) > newest:
        raise SourceError(
            "LPT-SRC-207",
            f"{name} uses opset {opset_of(proto)}; onnx {onnx.__version__} knows up to {newest}",
            remedy=f"Upgrade onnx, or export the model with opset {newest} or lower.",
        )


def has_external(proto: ModelProto) -> bool:
    """Tell whether any tensor of a model stands in another file."""
    return any(t.data_location == TensorProto.EXTERNAL for t in walk_tensors(proto))
