"""Files: digests, atomic writes, and disk errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def digest_path(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a directory's sorted names and file digests.

    Args:
        path: File or directory.

    Returns:
        ``"sha256:<hex>"``.

    Raises:
        OSError: It cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    tree = hashlib.sha256()
    members = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    for name in sorted(members):  # as text: paths sort differently on Windows
        tree.update(f"{len(name)}:{name}={digest_path(members[name])}\n".encode())
    return f"sha256:{tree.hexdigest()}"


def digest_files(main: str | Path, beside: Iterable[str | Path]) -> str:
    """Return a digest over the digests of a file and of those that belong to it, in this order.

    Args:
        main: The main file.
        beside: Files whose bytes it names, as an ONNX model names its external data.

    Returns:
        ``"sha256:<hex>"``.

    Raises:
        OSError: One of them cannot be read.
    """
    others = (f"{Path(file).name}={digest_path(file)}\n" for file in beside)
    return digest_bytes("".join([f"{digest_path(main)}\n", *others]).encode())


def digest_bytes(data: bytes) -> str:
    """Return ``"sha256:<hex>"`` of *data*."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_disk_error(error: BaseException) -> bool:
    """Tell whether an exception means a full disk or a missing permission."""
    return isinstance(error, OSError) and error.errno in (*_FULL, *_DENIED)


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full disk or a missing permission into a :class:`StorageError`.

    Args:
        what: What was being written, for the message (``"the result in out/"``).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                "LPT-IO-001",
                f"The disk is full; could not write {what}",
                cause=str(error),
                remedy="Free space or choose another place with --out; nothing was left behind.",
            ) from error
        if error.errno in _DENIED:
            raise StorageError(
                "LPT-IO-002",
                f"No permission to write {what}",
                cause=str(error),
                remedy="Choose a place you may write to, with --out.",
            ) from error
        raise


def reserve(path: str | Path) -> None:
    """Give a sparse file all its blocks, so that writing through a memory map cannot fail.

    A full disk met inside a memory map ends the process by a signal (SIGBUS); met here it is an
    error.

    Args:
        path: A file that already has its final length.

    Raises:
        OSError: The disk is full (``ENOSPC``).
    """
    with Path(path).open("r+b") as stream:
        size = os.fstat(stream.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
            return
        stream.seek(0)
        for start in range(0, size, _CHUNK):  # reads give zeros, writing them back gives blocks
            stream.seek(start)
            chunk = stream.read(min(_CHUNK, size - start))
            stream.seek(start)
            stream.write(chunk)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: Where; its directory must exist.
        data: Contents; text is encoded as UTF-8.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    with disk_errors(str(path)):
        temporary = path.with_name(f".lepton-{os.urandom(8).hex()}.tmp")
        try:
            # Unlike tempfile's 0600, a new file gets the mode that the user's umask says.
            with temporary.open("xb") as stream:
                stream.write(payload)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def named_place(path: str | Path) -> Iterator[None]:
    """Make the folders that lead to a file that the user named, for a block that writes it.

    Raises:
        StorageError: LPT-IO-001, LPT-IO-002; LPT-IO-004, there can be no such file.
    """
    try:
        with disk_errors(str(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            yield
    except OSError as error:
        raise StorageError(
            "LPT-IO-004",
            f"{path} cannot be made",
            cause=str(error),
            remedy="Choose another place, on an ordinary file system.",
        ) from error


def write_named(path: str | Path, data: bytes | str) -> None:
    """Write a file that the user named, whole or not at all; see :func:`named_place`."""
    with named_place(path):
        write_atomic(path, data)


__all__ = [
    "digest_bytes",
    "digest_files",
    "digest_path",
    "disk_errors",
    "is_disk_error",
    "named_place",
    "reserve",
    "write_atomic",
    "write_named",
]
