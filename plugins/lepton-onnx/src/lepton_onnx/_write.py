"""Writing models: deterministic bytes, whole or not at all, large weights in a second file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from lepton_core.files import disk_errors, write_atomic
from lepton_onnx._protobuf import storage_bytes
from lepton_onnx._strip import EXTERNAL_KEY

if TYPE_CHECKING:
    from lepton_onnx._parked import Parked

EXTERNAL_ABOVE = 1_500_000_000
"""Weights of more bytes than this stand in a second file; protobuf's own limit is 2 GiB."""

_ALIGNMENT = 4096
"""Each tensor starts at a multiple of this many bytes, so that a runtime can map it."""


def write(parked: Parked, path: Path, external_above: int = EXTERNAL_ABOVE) -> tuple[str, ...]:
    """Write a light model with its weights.

    Args:
        parked: The light model; it stays light.
        path: The ``.onnx`` file; a data file is named ``<path>.data``.
        external_above: Size of weights in bytes from which on they stand in the data file.

    Returns:
        Names of the data files written beside *path*.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    total = sum(storage_bytes(t) for t in parked.model.graph.initializer)
    full = ModelProto()
    full.CopyFrom(parked.model)
    files: tuple[str, ...] = ()
    if total > external_above:
        files = (f"{path.name}.data",)
        _write_data(parked, full, path.with_name(files[0]))
    else:
        for tensor in full.graph.initializer:
            parked.restore(tensor)
    write_atomic(path, full.SerializeToString(deterministic=True))
    return files


def _write_data(parked: Parked, full: ModelProto, path: Path) -> None:
    digest = hashlib.sha256()
    with disk_errors(str(path)):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                for tensor in full.graph.initializer:
                    if parked.values(tensor) is None:
                        continue
                    padding = b"\0" * (-stream.tell() % _ALIGNMENT)
                    offset = stream.tell() + len(padding)
                    for piece in (padding, *parked.chunks(tensor)):
                        stream.write(piece)
                        digest.update(piece)
                    _point(tensor, path.name, offset, stream.tell() - offset)
                size = stream.tell()
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    value = f"{path.name} {size} sha256:{digest.hexdigest()}"
    full.metadata_props.add(key=EXTERNAL_KEY, value=value)


def _point(tensor: TensorProto, name: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
