"""The seal of a database at rest: a check sum over every byte, also those that hold nothing.

Rows and tables carry hashes of their own, so what is stored is safe without a seal. A flipped bit
in an unused part of a page is not, and no structural check finds it: SQLite leaves old bytes
there. So whoever wrote and closes last writes down the digest of the file, and the next writer
removes it again at the end of its transaction, before the commit: what is refused, because the
store is damaged, leaves the seal that shows it.

A seal is bound to what was written last (*stamp*): one that comes back after a power cut, because
its removal was not yet on the disk, counts no more.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_core.errors import LeptonError
from lepton_core.files import digest_path, write_atomic
from lepton_core.store import _ledger
from lepton_core.store._failpoints import reach

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIX = ".seal"


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that is not what its seal says.

    Attributes:
        reason: What differs, in words.
        stamp: What was written last when the file was sealed; empty if the seal is unreadable.
    """

    reason: str
    stamp: str


def place_of(database: Path) -> Path:
    """Return the file that seals *database*."""
    return database.with_name(database.name + SUFFIX)


def remove(database: Path) -> None:
    """Break the seal before a commit; the caller holds the database's write lock."""
    with contextlib.suppress(FileNotFoundError):
        place_of(database).unlink()
        reach("seal.removed")


def write(connection: sqlite3.Connection, database: Path, stamp: Callable[[], str]) -> None:
    """Seal a database whose log can be emptied now; if others use it, they will do so.

    Args:
        connection: Open, outside a transaction; it waits for nobody any more afterwards.
        database: Its file.
        stamp: Returns what was written last.
    """
    with contextlib.suppress(sqlite3.Error, OSError, LeptonError):
        connection.execute("PRAGMA busy_timeout=0")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have written between the two statements.
            log = database.with_name(database.name + "-wal")
            if not (log.exists() and log.stat().st_size):
                write_atomic(place_of(database), _text(digest_path(database), stamp()))
                reach("seal.written")
        finally:
            connection.execute("ROLLBACK")


def _text(digest: str, stamp: str) -> str:
    data = {"digest": digest, "stamp": stamp}
    check = _ledger.row_hash("seal", _ledger.canonical(data))
    return _ledger.canonical({**data, "check": check}) + "\n"


def check(database: Path) -> Broken | None:
    """Compare a database with its seal, if it has one; needs no connection and no lock."""
    place = place_of(database)
    try:
        text = place.read_bytes()
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
        digest, stamp = str(data["digest"]), str(data["stamp"])
        if text != _text(digest, stamp).encode():
            raise ValueError("its check sum is wrong")
    except (ValueError, KeyError, TypeError) as error:
        return Broken(f"the seal {place.name} is not as it was written: {error}", "")
    found = digest_path(database)
    if found == digest or not place.exists() or place.read_bytes() != text:
        return None  # whole, or someone has begun to write meanwhile
    return Broken(f"it has the digest {found}, but was sealed with {digest}", stamp)


__all__ = ["SUFFIX", "Broken", "check", "place_of", "remove", "write"]
