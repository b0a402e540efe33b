"""Read ``.npz`` and ``.npy`` files without pickles, path escapes or surprises in size.

Members that were stored without compression (``numpy.savez``) are memory-mapped in place: the
array's bytes lie contiguously in the file, right behind the member's local header (APPNOTE.TXT
§4.3.7) and the ``.npy`` header. Compressed members are unpacked into memory within a limit.
"""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from lepton_core.environment import cgroup_memory
from lepton_core.errors import SampleError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

_LOCAL_HEADER = 30
_ENCRYPTED = 0x1
_PIECE = 1 << 22
_DEFAULT_LIMIT = 8 << 30

_DAMAGED = (
    *(OSError, EOFError, ValueError, SyntaxError, OverflowError, RuntimeError, TypeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, tokenize.TokenError),
)
"""What NumPy and zipfile raise on bytes that are not what they claim to be."""


def unpack_limit() -> int:
    """Return how many bytes compressed members may unpack to: half the memory of this place."""
    limit = cgroup_memory()
    if limit is None and hasattr(os, "sysconf"):
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1 << 20, limit // 2) if limit else _DEFAULT_LIMIT


def read_npz(path: Path, written: str, *, limit: int | None = None) -> dict[str, Array]:
    """Return the arrays of an archive by name.

    Args:
        path: The archive.
        written: How the user wrote it, for messages.
        limit: Bytes that compressed members may unpack to; :func:`unpack_limit` by default.

    Raises:
        SampleError: ``LPT-DATA-003`` damaged or encrypted, ``LPT-DATA-004`` pickled objects,
            ``LPT-DATA-005`` too large to unpack.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            _check_size(members, written, unpack_limit() if limit is None else limit)
            return {
                m.filename.removesuffix(".npy"): _read_member(archive, m, path) for m in members
            }
    except _PickledError as error:
        raise _pickled(f"Array {error.args[0]!r} in {written!r}") from None
    except _DAMAGED as error:
        raise _unreadable(written, error, "numpy.savez") from error


def map_npy(path: Path, written: str) -> Array:
    """Memory-map one ``.npy`` file, read-only.

    Raises:
        SampleError: ``LPT-DATA-003`` damaged, ``LPT-DATA-004`` pickled objects.
    """
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _read_header(stream, path.stem)
            start = stream.tell()
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if start + size != path.stat().st_size:
            msg = f"it has {path.stat().st_size} bytes, its header needs {start + size}"
            raise ValueError(msg)
        if not size:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except _PickledError:
        raise _pickled(repr(written)) from None
    except _DAMAGED as error:
        raise _unreadable(written, error, "numpy.save") from error


def _pickled(what: str) -> SampleError:
    return SampleError(
        "LPT-DATA-004",
        f"{what} holds Python objects, not numbers",
        cause="reading it would run a pickle, which can run any code",
        remedy="Save plain numeric arrays of one dtype and shape (not dtype=object).",
    )


def _unreadable(written: str, error: Exception, saver: str) -> SampleError:
    return SampleError(
        "LPT-DATA-003",
        f"{written!r} cannot be read as NumPy arrays",
        cause=f"{type(error).__name__}: {error}",
        remedy=f"The file may be truncated or damaged; save it again with {saver}.",
    )


class _PickledError(Exception):
    """A member is an object array; the argument is its name."""


def _check_size(members: list[zipfile.ZipInfo], written: str, limit: int) -> None:
    need = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
    if need > limit:
        raise SampleError(
            "LPT-DATA-005",
            f"{written!r} unpacks to {need / 2**30:.1f} GiB, more than the "
            f"{limit / 2**30:.1f} GiB allowed here",
            remedy="Save it with numpy.savez (uncompressed) or as a folder of .npy files: "
            "those are memory-mapped and may be of any size.",
            details={"unpacked_bytes": need, "limit_bytes": limit},
        )


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & _ENCRYPTED:
        msg = f"member {name!r} is encrypted"
        raise ValueError(msg)
    with archive.open(member) as stream:
        shape, fortran, dtype = _read_header(stream, name)
        start = stream.tell()
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if start + size != member.file_size:
            msg = (
                f"member {name!r} is {member.file_size} bytes long, its header needs {start + size}"
            )
            raise ValueError(msg)
        if member.compress_type == zipfile.ZIP_STORED and size:
            _check_crc(stream)
            offset = _data_offset(path, member) + start
            return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
        raw = bytearray(size)
        _fill(stream, raw, name)
    flat: Array = np.frombuffer(raw, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        msg = f"member {name!r} has .npy format version {version}"
        raise ValueError(msg)
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise _PickledError(name)
    return shape, fortran, dtype


def _check_crc(stream: IO[bytes]) -> None:
    """Read to the end: ``zipfile`` compares the checksum there, a memory map would not."""
    while stream.read(_PIECE):
        pass


def _fill(stream: IO[bytes], raw: bytearray, name: str) -> None:
    view, position = memoryview(raw), 0
    while piece := stream.read(_PIECE):
        view[position : position + len(piece)] = piece
        position += len(piece)
    if position != len(raw):
        msg = f"member {name!r} ends after {position} of {len(raw)} bytes"
        raise ValueError(msg)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin; its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return member.header_offset + _LOCAL_HEADER + int(name_length) + int(extra_length)


__all__ = ["map_npy", "read_npz", "unpack_limit"]
