"""Measurements of deployments: many, cheap, in a database of their own.

Losing the last second of measurements in a power cut is no harm, so this database is written
with ``synchronous=NORMAL``, in batches, and old rows make room for new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.store import _faults, _seal
from lepton_core.store._database import connect, keep_inherited
from lepton_core.store._ledger import canonical, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE = "metrics.db"
KEEP_ROWS = 100_000
_TABLE = """CREATE TABLE metrics(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, body TEXT NOT NULL,
    sum TEXT NOT NULL) STRICT"""
_INDEX = "CREATE INDEX metrics_by_name ON metrics(name, id)"


@dataclass(frozen=True, slots=True)
class Metric:
    """One stored measurement.

    Attributes:
        id: Rising number.
        name: Name of the deployment.
        time: ISO 8601, UTC; when it was written.
        data: What was measured.
    """

    id: int
    name: str
    time: str
    data: Mapping[str, Any]


def _sum(name: str, body: str) -> str:
    return hashlib.sha256(f"{name}\n{body}".encode()).hexdigest()[:32]


class MetricsLog:
    """Rows of measurements beside the ledger; opened when first used.

    Args:
        root: Folder of the store.
        timeout: Seconds to wait for other processes.
        keep: Rows to keep; the oldest go first.
    """

    def __init__(self, root: Path, timeout: float, keep: int = KEEP_ROWS) -> None:
        self._place = root / FILE
        self._timeout = timeout
        self._keep = keep
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._wrote = False

    @contextlib.contextmanager
    def _open(self, *, create: bool) -> Iterator[sqlite3.Connection | None]:
        with self._lock, _faults.guard("the measurements"):
            if self._pid != os.getpid():
                keep_inherited(self._connection)
                self._connection, self._pid = None, os.getpid()
            if self._connection is None and (create or self._place.exists()):
                self._connection = connect(self._place, self._timeout, "NORMAL")
                _make_tables(self._connection)
            yield self._connection

    def write(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write measurements of a deployment in one transaction.

        Raises:
            StorageError: LPT-STORE-003, LPT-STORE-005, LPT-IO-001, LPT-IO-002.
        """
        time = now()
        bodies = [canonical({"time": time, "data": dict(row)}) for row in rows]
        with self._open(create=True) as connection:
            if connection is None or not bodies:
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(
                    "INSERT INTO metrics(name, body, sum) VALUES (?, ?, ?)",
                    [(name, body, _sum(name, body)) for body in bodies],
                )
                connection.execute(
                    "DELETE FROM metrics WHERE id <= (SELECT max(id) FROM metrics) - ?",
                    (self._keep,),
                )
                _seal.remove(self._place)
                self._wrote = True
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def read(self, name: str, *, after: int = 0, limit: int = 1000) -> tuple[Metric, ...]:
        """Return the last measurements of a deployment, oldest first.

        Raises:
            StorageError: LPT-STORE-004, a row is not what was written.
        """
        with self._open(create=False) as connection:
            rows: list[Any] = []
            if connection is not None:
                rows = connection.execute(
                    "SELECT id, name, body, sum FROM metrics WHERE name=? AND id > ? "
                    "ORDER BY id DESC LIMIT ?",
                    (name, after, limit),
                ).fetchall()
        return tuple(_metric(*row) for row in reversed(rows))

    def damage(self) -> list[str]:
        """Return what is wrong with the database, in words; empty if nothing is."""
        try:
            broken = _seal.check(self._place) if self._place.exists() else None
            with self._open(create=False) as connection:
                if connection is None:
                    return []
                found = _integrity(connection)
                if broken is not None and broken.stamp in ("", stamp(connection)):
                    found.append(broken.reason)
                rows = connection.execute("SELECT id, name, body, sum FROM metrics")
                for row in rows:
                    if _sum(row[1], row[2]) != row[3]:
                        found.append(f"row {row[0]}: its check sum is wrong")
                return found
        except Exception as error:
            return [str(getattr(error, "cause", None) or error)]

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        with self._lock:
            connection = self._connection
            if connection is not None and self._pid == os.getpid():
                if self._wrote:
                    _seal.write(connection, self._place, lambda: stamp(connection))
                connection.close()
            self._connection = None


def stamp(connection: sqlite3.Connection) -> str:
    """Return what tells the present measurements from earlier ones: the newest row's number."""
    return str(connection.execute("SELECT max(id) FROM metrics").fetchone()[0])


def _make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file only: what is missing from an old one is damage."""
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.execute(_TABLE)
            connection.execute(_INDEX)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _integrity(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("PRAGMA integrity_check").fetchall()
    found = [text for (text,) in rows if text != "ok"]
    there = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rootpage"
    ).fetchall()
    expected = [
        ("table", "metrics", "metrics", _TABLE),
        ("table", "sqlite_sequence", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"),
        ("index", "metrics_by_name", "metrics", _INDEX),
    ]
    if there != expected:
        found.append("its tables are not those that were made")
        return found
    # The newest row always stays, so the counter of ids is its id.
    counted = connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
    last = connection.execute("SELECT max(id) FROM metrics").fetchone()[0]
    if counted != ([] if last is None else [("metrics", last)]):
        found.append(f"its counter of rows is {counted}, the last row is {last}")
    return found


def _metric(number: int, name: str, body: str, stored: str) -> Metric:
    if _sum(name, body) != stored:
        raise _faults.damaged(f"measurement {number}", "its check sum is wrong")
    data = json.loads(body)
    return Metric(number, name, data["time"], data["data"])


__all__ = ["FILE", "Metric", "MetricsLog"]
