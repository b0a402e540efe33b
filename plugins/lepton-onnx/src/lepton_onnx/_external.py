"""External data: weights that stand in files beside the model.

A location is trusted only if it is relative, has no ``..``, and leads to a file inside the
model's own directory. A link may lead into the directory that the model's own link leads into,
which is how hub caches lay out their files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from lepton_core.errors import SourceError
from lepton_onnx._protobuf import storage_bytes, walk_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Slice:
    """Where an external tensor's bytes stand.

    Attributes:
        file: The file.
        offset: First byte.
        length: Number of bytes.
    """

    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)

    def chunks(self, size: int = 1 << 24) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most *size*."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            left = self.length
            while left > 0:
                piece = stream.read(min(size, left))
                if not piece:
                    return
                left -= len(piece)
                yield piece


def locate(tensor: TensorProto, model_path: Path) -> Slice:
    """Find an external tensor's bytes and check that they are all there.

    Args:
        tensor: A tensor with ``data_location`` EXTERNAL.
        model_path: The model file that it belongs to.

    Raises:
        SourceError: LPT-SRC-208 (the location leaves the model's directory), 209 (the file is
            missing), 210 (the file is too short, or offset and length make no sense).
    """
    entries = {e.key: e.value for e in tensor.external_data}
    file = _resolve(entries.get("location", ""), tensor.name, model_path)
    expected = storage_bytes(tensor)
    try:
        offset = int(entries.get("offset", "0") or 0)
        size = file.stat().st_size
        length = int(entries.get("length", "0") or 0) or max(0, size - offset)
    except ValueError:
        offset, size, length = -1, 0, 0
    if offset < 0 or length != expected or offset + length > size:
        raise SourceError(
            "LPT-SRC-210",
            f"The external data of {tensor.name!r} in {model_path} is incomplete",
            cause=f"The tensor needs {expected:,} bytes; the model names {length:,} at offset "
            f"{offset:,} of {file.name}, which has {size:,}.",
            remedy="Copy or download the data file again, or export the model again.",
        )
    return Slice(file, offset, length)


def _resolve(location: str, tensor: str, model_path: Path) -> Path:
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    bad = not location or posix.is_absolute() or windows.is_absolute() or bool(windows.drive)
    if bad or ".." in posix.parts or ".." in windows.parts or "\0" in location:
        raise _escape(location, tensor, model_path)
    file = model_path.parent / location
    homes = (model_path.parent.resolve(), model_path.resolve().parent)
    target = file.resolve()
    if not any(target.is_relative_to(home) for home in homes):
        raise _escape(location, tensor, model_path)
    if not file.is_file():
        raise SourceError(
            "LPT-SRC-209",
            f"The external data file {location!r} of {model_path} is missing",
            cause=f"Tensor {tensor!r} stands in it.",
            remedy=f"Put {location!r} beside the model; the two files belong together.",
        )
    return file


def _escape(location: str, tensor: str, model_path: Path) -> SourceError:
    return SourceError(
        "LPT-SRC-208",
        f"{model_path} names external data outside its own directory: {location!r}",
        cause=f"Tensor {tensor!r} would be read from there; that is refused for safety.",
        remedy="Save the model again with its data file beside it, under a relative name.",
    )


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors of *model* that stand in other files."""
    return (t for t in walk_tensors(model) if t.data_location == TensorProto.EXTERNAL)


def verify_external(model: ModelProto, model_path: Path) -> tuple[Path, ...]:
    """Check every external tensor's location and size; return the files, sorted.

    Raises:
        SourceError: As :func:`locate`.
    """
    return tuple(sorted({locate(t, model_path).file for t in external_tensors(model)}))


def fill(tensor: TensorProto, data: bytes) -> None:
    """Put *data* into *tensor* as raw data and drop its external location."""
    tensor.raw_data = data
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def load_external(model: ModelProto, model_path: Path) -> None:
    """Read all external data into *model*, in place.

    Raises:
        SourceError: As :func:`locate`.
    """
    for tensor in external_tensors(model):
        fill(tensor, locate(tensor, model_path).read())
