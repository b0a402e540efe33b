"""Content-addressed files: the name of a file is the digest of what is in it.

A file is written to a temporary name in its folder, synced, renamed, and the folder is synced;
so it is there whole or not at all, whenever the machine stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.store import _faults
from lepton_core.store._failpoints import reach
from lepton_core.store._names import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 20
TEMPORARY = ".new-"


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power cut; nothing to do on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_file(path: Path) -> str:
    """Return ``"sha256:<hex>"`` of a file's bytes."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


class Cas:
    """Files by digest under *root*.

    Args:
        root: Folder of the store; files go to ``cas/sha256/ab/<64 hex digits>``.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "cas" / "sha256"

    def path(self, digest: str) -> Path:
        """Return where the file of *digest* is or would be.

        Raises:
            StorageError: LPT-STORE-004, *digest* is none, and so cannot leave the folder.
        """
        if not is_digest(digest):
            raise _faults.damaged(f"a reference to a stored file ({digest!r})", "not a digest")
        hexadecimal = digest.removeprefix("sha256:")
        return self.folder / hexadecimal[:2] / hexadecimal

    def holds(self, digest: str, size: int) -> bool:
        """Tell whether a file of this digest and size is there, without reading it."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def put_file(self, source: Path) -> tuple[str, int]:
        """Store a copy of *source*.

        Returns:
            Digest and size in bytes.

        Raises:
            StorageError: LPT-IO-001 or -002; LPT-STORE-004, it changed while it was copied.
        """
        digest = digest_file(source)
        size = source.stat().st_size
        with source.open("rb") as stream:
            self._put(digest, size, iter(lambda: stream.read(CHUNK), b""), str(source))
        return digest, size

    def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Store *data*; returns digest and size."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        middle = len(data) // 2
        self._put(digest, len(data), (data[:middle], data[middle:]), "data in memory")
        return digest, len(data)

    def _put(self, digest: str, size: int, chunks: Iterable[bytes], what: str) -> None:
        final = self.path(digest)
        with _faults.guard(f"a file of {size} bytes into the store"):
            if self._is_good(final, digest):
                return
            if not final.parent.is_dir():
                final.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(final.parent.parent)
                reach("cas.folder-made")
            handle, name = tempfile.mkstemp(dir=final.parent, prefix=TEMPORARY)
            temporary = Path(name)
            try:
                reach("cas.temporary-made")
                found = _write(handle, chunks)
                if found != digest:
                    raise _faults.damaged(what, f"it changed while it was read, to {found}")
                if os.name != "nt":  # a read-only file cannot be replaced there
                    temporary.chmod(0o444)
                _replace(temporary, final)
                reach("cas.replaced")
                sync_folder(final.parent)
                reach("cas.folder-synced")
            finally:
                temporary.unlink(missing_ok=True)

    def _is_good(self, final: Path, digest: str) -> bool:
        """Tell whether the file is already there and whole; a damaged one is written anew."""
        try:
            if digest_file(final) != digest:
                return False
            with contextlib.suppress(PermissionError):  # someone else's file in a shared store
                os.utime(final)  # young again: a collection that runs now leaves it alone
        except FileNotFoundError:  # it was not there, or was collected this moment
            return False
        return True

    def read(self, digest: str, what: str) -> bytes:
        """Return the bytes of a small file.

        Raises:
            StorageError: LPT-STORE-004, it is missing or its bytes have another digest.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise _faults.damaged(what, f"its file {digest} is missing") from error
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise _faults.damaged(what, f"digest {found} instead of {digest}")
        return data

    def files(self) -> Iterator[Path]:
        """Yield every file below the folder, temporary ones too."""
        for folder in sorted(self.folder.glob("*")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from sorted(folder.iterdir())


def _write(handle: int, chunks: Iterable[bytes]) -> str:
    """Write and sync; return the digest of what was written."""
    found = hashlib.sha256()
    with os.fdopen(handle, "wb") as stream:
        for number, chunk in enumerate(chunks):
            stream.write(chunk)
            found.update(chunk)
            if number == 0:
                stream.flush()
                reach("cas.half-written")
        stream.flush()
        reach("cas.written")
        os.fsync(stream.fileno())
    reach("cas.synced")
    return f"sha256:{found.hexdigest()}"


def _replace(temporary: Path, final: Path) -> None:
    try:
        temporary.replace(final)
    except PermissionError:
        # Windows refuses while someone reads the old file; the same digest is the same file.
        if not final.exists():
            raise


__all__ = ["TEMPORARY", "Cas", "digest_file", "sync_folder"]
