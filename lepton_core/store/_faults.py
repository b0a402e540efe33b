"""The store's errors: what is damaged, busy, full or unknown, in words."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from typing import TYPE_CHECKING, Any

from lepton_core.errors import DeployError, LeptonError, StorageError, UsageError
from lepton_core.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DENIED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
# SQLite reports a file that may not grow as a failed write, not as a full disk.
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_FULL_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def damaged(what: str, reason: str, **details: Any) -> StorageError:  # noqa: ANN401 - JSON types
    """Return the error for something stored that is not what was stored."""
    return StorageError(
        "LPT-STORE-004",
        f"{what} is damaged and is not used",
        cause=reason,
        remedy="`lepton store verify` lists all damage; deploy the artifact again, or restore the "
        "store from a copy.",
        details={"what": what, "reason": reason, **details},
    )


def full(what: str, cause: object) -> StorageError:
    """Return the error for a disk without room."""
    return StorageError(
        "LPT-IO-001",
        f"The disk is full; could not write {what}",
        cause=str(cause),
        remedy="Free space (`lepton store gc` helps) or use another store; the store is unchanged.",
    )


def unknown(
    kind: str,
    name: str,
    near: list[str],
    *,
    code: str,
    present: list[str],
) -> UsageError:
    """Return the error for a name, alias or version that the store does not have."""
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(
        code,
        f"The store has no {kind} {name!r}",
        cause=f"it has: {', '.join(present) or 'none'}",
        remedy=f"{hint}`lepton store list` shows what there is.",
        details={"kind": kind, "name": name, "nearest": near, "present": present},
    )


def moved(name: str, alias: str, expected: int, present: dict[str, Any]) -> DeployError:
    """Return the error for the loser of two promotions."""
    now = f"{present['version']}, generation {present['generation']}"
    return DeployError(
        "LPT-STORE-010",
        f"{name}@{alias} was moved by someone else meanwhile; nothing was changed",
        cause=f"expected generation {expected}; it points to {now}",
        remedy="Look at the present state, and promote again if it still should move.",
        details={"name": name, "alias": alias, "expected": expected, "present": present},
    )


@contextlib.contextmanager
def guard(what: str) -> Iterator[None]:
    """Turn what the disk or SQLite says into errors with codes.

    Args:
        what: What was being done, for the message (``"the ledger"``).

    Raises:
        StorageError: LPT-IO-001 (full), LPT-IO-002 (no permission), LPT-STORE-003 (the database
            is damaged), LPT-STORE-005 (busy).
    """
    try:
        with disk_errors(what):
            yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: SQLite quotes a bad byte
        raise _from_sqlite(what, error) from error
    except OSError as error:
        if error.errno in _FULL_ERRNO:
            raise full(what, error) from error
        raise


def _from_sqlite(what: str, error: sqlite3.Error | UnicodeDecodeError) -> LeptonError:
    extended = getattr(error, "sqlite_errorcode", None)
    code = None if extended is None else extended & 0xFF
    if code in _BUSY:
        return StorageError(
            "LPT-STORE-005",
            f"The store is busy; {what} could not be written in time",
            cause=str(error),
            remedy="Another process holds the store; try again, or see which one hangs.",
        )
    if code in _FULL:
        return full(what, error)
    if code in _DENIED:
        return StorageError(
            "LPT-IO-002",
            f"No permission to write {what}",
            cause=str(error),
            remedy="Choose a store that you may write to, with --store or LEPTON_STORE.",
        )
    # Whatever else SQLite says of our own fixed statements means that the file is not ours.
    kind = "is no database" if code in _CORRUPT else "does not answer as it should"
    return StorageError(
        "LPT-STORE-003",
        f"The store's database {kind} ({what})",
        cause=f"{type(error).__name__}: {error}",
        remedy="`lepton store verify` lists all damage; restore the store from a copy.",
        details={"what": what},
    )


__all__ = ["damaged", "full", "guard", "moved", "unknown"]
