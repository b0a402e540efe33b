"""The ledger's database: one connection, short write transactions, the chain kept in each.

SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives a power cut.
WAL needs a local file system; a store does not belong on a network share.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from lepton_core.errors import LeptonError, StorageError, UsageError
from lepton_core.installing import install_command
from lepton_core.store import _faults, _ledger, _seal
from lepton_core.store._failpoints import reach
from lepton_core.store._ledger import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lepton_core.store._types import LedgerRow

FILE = "ledger.db"
SCHEMA = 1
APPLICATION_ID = 0x4C505453  # "LPTS"
TABLES = {
    "ledger": """CREATE TABLE ledger(
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,
    hash TEXT NOT NULL, body TEXT NOT NULL) STRICT""",
    "ledger_by_name": "CREATE INDEX ledger_by_name ON ledger(name, kind)",
    "versions": """CREATE TABLE versions(
    version TEXT PRIMARY KEY, manifest TEXT NOT NULL) STRICT, WITHOUT ROWID""",
    "files": """CREATE TABLE files(
    digest TEXT NOT NULL, version TEXT NOT NULL,
    PRIMARY KEY(digest, version)) STRICT, WITHOUT ROWID""",
    "entries": """CREATE TABLE entries(
    name TEXT NOT NULL, version TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(name, version)) STRICT, WITHOUT ROWID""",
    "aliases": """CREATE TABLE aliases(
    name TEXT NOT NULL, alias TEXT NOT NULL, version TEXT NOT NULL,
    generation INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(name, alias)) STRICT, WITHOUT ROWID""",
    "pins": """CREATE TABLE pins(
    version TEXT NOT NULL, reason TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(version, reason)) STRICT, WITHOUT ROWID""",
    "settings": """CREATE TABLE settings(
    name TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    generation INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(name, key)) STRICT, WITHOUT ROWID""",
}


def connect(place: Path, timeout: float, synchronous: str) -> sqlite3.Connection:
    """Open a database of ours in WAL mode."""
    connection = sqlite3.connect(
        place, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA secure_delete=ON")  # what is removed is gone from the file
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


_inherited: list[sqlite3.Connection] = []


def keep_inherited(connection: sqlite3.Connection | None) -> None:
    """Keep what a fork inherited: SQLite forbids to use it there, and even to close it."""
    if connection is not None:
        _inherited.append(connection)


class Transaction:
    """One write transaction: changes tables and appends the rows that say so."""

    def __init__(self, connection: sqlite3.Connection, last: Mark, actor: str) -> None:
        self._connection = connection
        self._actor = actor
        self.last = last

    def execute(self, sql: str, *values: Any) -> list[Any]:  # noqa: ANN401 - what SQLite binds
        """Run one statement and return its rows."""
        rows = self._connection.execute(sql, values).fetchall()
        if not sql.lstrip().upper().startswith("SELECT"):
            reach("transaction.row-changed")
        return rows

    def append(
        self, kind: str, name: str = "", *, why: str = "", details: Mapping[str, Any] | None = None
    ) -> int:
        """Append a ledger row; returns its number.

        Raises:
            UsageError: LPT-STORE-018, reason or details are not plain data.
        """
        seq = self.last.seq + 1
        try:
            body = _ledger.make_body(
                seq, kind, name, actor=self._actor, why=why, details=details or {}
            )
            mark = Mark(seq, _ledger.row_hash(self.last.hash, body))
        except (ValueError, TypeError) as error:
            raise UsageError(
                "LPT-STORE-018",
                f"What a {kind!r} row of the ledger should say cannot be stored",
                cause=str(error),
                remedy="Use JSON types, finite numbers and text that is valid Unicode.",
            ) from error
        self._connection.execute(
            "INSERT INTO ledger(seq, kind, name, hash, body) VALUES (?, ?, ?, ?, ?)",
            (seq, kind, name, mark.hash, body),
        )
        self.last = mark
        reach("transaction.row-appended")
        return seq


class Database:
    """The ledger and the tables that follow from it.

    Args:
        root: Folder of the store.
        timeout: Seconds to wait for other processes.
        actor: Who is written into the ledger.
    """

    def __init__(self, root: Path, timeout: float, actor: str) -> None:
        self.root = root
        self._timeout = timeout
        self._actor = actor
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._closed = False
        self._wrote = False

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this process; a fork gets its own.

        Raises:
            StorageError: LPT-STORE-003, LPT-STORE-014.
        """
        if self._closed:
            raise StorageError(
                "LPT-STORE-002", f"The store {self.root} is closed", remedy="Open it again."
            )
        if self._pid != os.getpid():
            keep_inherited(self._connection)
            self._connection, self._pid = None, os.getpid()
        if self._connection is None:
            with _faults.guard("the ledger"):
                connection = connect(self.root / FILE, self._timeout, "FULL")
                try:
                    check_schema(connection)
                except BaseException:
                    connection.close()
                    raise
            self._connection = connection
        return self._connection

    def create(self) -> None:
        """Make the tables and the first row, if they are not there yet.

        Raises:
            StorageError: The disk is full or the place may not be written.
        """
        with _faults.guard("a new store"):
            connection = connect(self.root / FILE, self._timeout, "FULL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                new = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
                if new:
                    for statement in TABLES.values():
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version={SCHEMA}")
                    first = Transaction(connection, Mark(), self._actor)
                    first.append("store.create", details={"schema": SCHEMA})
                    _ledger.write_head(self.root, Mark(), first.last)
                    reach("transaction.head-announced")
                connection.execute("COMMIT")
                reach("transaction.committed")
                if new:
                    self._seal(connection)
            finally:
                connection.close()

    def _seal(self, connection: sqlite3.Connection) -> None:
        _seal.write(connection, self.root / FILE, lambda: stamp(connection))

    def select(self, sql: str, *values: Any) -> list[Any]:  # noqa: ANN401
        """Return the rows of a query."""
        with self._lock, _faults.guard("a look into the ledger"):
            return self.connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def write(self, what: str) -> Iterator[Transaction]:
        """Run a block as one transaction: all of it is kept, or nothing.

        Args:
            what: What is written, for messages.

        Raises:
            StorageError: LPT-STORE-003 … 005, LPT-IO-001, LPT-IO-002; nothing was changed.
        """
        with self._lock, _faults.guard(what):
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            reach("transaction.begun")
            try:
                before = self.check_head()
                transaction = Transaction(connection, before, self._actor)
                yield transaction
                after = transaction.last
                if after != before:
                    _ledger.write_head(self.root, before, after)
                    reach("transaction.head-announced")
                _seal.remove(self.root / FILE)
                self._wrote = True
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
            reach("transaction.committed")
            if after != before:
                self._mark(after)

    def _mark(self, last: Mark) -> None:
        # The change is committed; without this mark its loss alone would go unnoticed.
        with contextlib.suppress(LeptonError, OSError):
            _ledger.write_head(self.root, last, None)
            reach("transaction.head-marked")

    def check_head(self) -> Mark:
        """Return the last row's place after holding it against the head.

        Raises:
            StorageError: LPT-STORE-004, rows that were committed are missing or changed.
        """
        committed, _ = _ledger.read_head(self.root)
        with self._lock:
            rows = self.connection.execute(
                "SELECT seq, hash FROM ledger WHERE seq = ? "
                "UNION SELECT * FROM (SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1)",
                (committed.seq,),
            ).fetchall()
        known: dict[int, str] = dict(rows)
        last = Mark(*max(rows)) if rows else Mark()
        if last.seq < committed.seq:
            reason = f"it ends at row {last.seq}, but row {committed.seq} was committed"
            raise _faults.damaged("the ledger", reason, seq=last.seq)
        if committed.seq and known.get(committed.seq) != committed.hash:
            reason = f"row {committed.seq} is not the one that was committed"
            raise _faults.damaged("the ledger", reason, seq=committed.seq)
        return last

    def row(self, seq: int) -> LedgerRow:
        """Return one row after checking its hash.

        Raises:
            StorageError: LPT-STORE-004, it is missing or changed.
        """
        rows = self.select(
            "SELECT seq, hash, body FROM ledger WHERE seq IN (?, ?) ORDER BY seq", seq - 1, seq
        )
        if not rows or rows[-1][0] != seq:
            raise _faults.damaged(f"ledger row {seq}", "the row is missing")
        previous = rows[0][1] if len(rows) == 2 else _ledger.GENESIS
        _, found, body = rows[-1]
        if _ledger.row_hash(previous, body) != found:
            raise _faults.damaged(f"ledger row {seq}", "its hash does not fit", seq=seq)
        return _ledger.parse_row(seq, body, found)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        with self._lock:
            self._closed = True
            if self._connection is not None and self._pid == os.getpid():
                if self._wrote:
                    self._seal(self._connection)
                self._connection.close()
            elif self._connection is not None:
                keep_inherited(self._connection)
            self._connection = None


def stamp(connection: sqlite3.Connection) -> str:
    """Return what tells the present ledger from an earlier one: its last row's place and hash."""
    rows = connection.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchall()
    return "{}:{}".format(*rows[0]) if rows else ""


def check_schema(connection: sqlite3.Connection) -> None:
    """Check that a database is a ledger that this version understands.

    Raises:
        StorageError: LPT-STORE-003, it is not; LPT-STORE-014, it is of a later version.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID or schema < 1:
        raise StorageError(
            "LPT-STORE-003",
            "The store's database is not a ledger of lepton",
            cause=f"application id {application:#x}, schema {schema}",
            remedy="Restore the store from a copy, or choose another one.",
        )
    if schema > SCHEMA:
        raise StorageError(
            "LPT-STORE-014",
            f"The store has schema {schema}; this version of lepton knows {SCHEMA}",
            remedy=install_command("lepton-core", "--upgrade"),
        )


__all__ = [
    "FILE",
    "SCHEMA",
    "TABLES",
    "Database",
    "Transaction",
    "check_schema",
    "connect",
    "keep_inherited",
    "stamp",
]
