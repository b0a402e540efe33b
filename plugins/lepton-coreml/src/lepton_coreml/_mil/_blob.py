"""The file of weights (``weight.bin``): blobs at multiples of 64 bytes, each behind a header.

Layout after ``MILBlob/Blob/StorageFormat.hpp`` of coremltools: the file starts with the number of
blobs and the version 2 as two uint32 in 64 bytes; a blob's header holds the mark 0xDEADBEEF, the
type (uint32), the size and the place of its bytes (uint64), and padding, in 64 bytes too.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Any

from lepton_coreml._mil._types import IN_BLOB, decode

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MARK = 0xDEADBEEF
_VERSION = 2
_HEADER = struct.Struct("<II56x")
_ENTRY = struct.Struct("<IIQQQ32x")


class BlobFile:
    """A file of weights, read where a constant asks for it.

    Args:
        path: The file.

    Raises:
        ValueError: It is no file of weights of version 2.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size < _HEADER.size:
                msg = f"{path.name} has {size} bytes, less than its own header"
                raise ValueError(msg)
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.count, version = _HEADER.unpack_from(self._data, 0)
        if version != _VERSION:
            msg = f"{path.name} is of version {version}; version {_VERSION} is known"
            raise ValueError(msg)

    def place(self, offset: int) -> tuple[str, int, int]:
        """Return element type, place and length in bytes of the blob whose header is at *offset*.

        Raises:
            ValueError: There is no blob there, or it leaves the file.
        """
        if offset % 64 or offset + _ENTRY.size > len(self._data):
            msg = f"{self._path.name} holds no blob at {offset}"
            raise ValueError(msg)
        mark, kind, size, start, _ = _ENTRY.unpack_from(self._data, offset)
        if mark != _MARK or kind not in IN_BLOB:
            msg = f"{self._path.name} holds no blob at {offset}"
            raise ValueError(msg)
        if start < offset + _ENTRY.size or start + size > len(self._data):
            msg = f"the blob at {offset} of {self._path.name} leaves the file"
            raise ValueError(msg)
        return IN_BLOB[kind], start, size

    def read(self, offset: int, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return a blob as an array that shares the file's memory where it can.

        Args:
            offset: Place of its header.
            name: Element type that the program says it has.
            shape: Shape that the program says it has.

        Raises:
            ValueError: The file says otherwise.
        """
        kind, start, size = self.place(offset)
        # Booleans have no type of their own in the file.
        if kind != name and (kind, name) != ("uint8", "bool"):
            msg = f"the blob at {offset} is of {kind}; the program says {name}"
            raise ValueError(msg)
        return decode(memoryview(self._data)[start : start + size], name, shape)


__all__ = ["BlobFile"]
