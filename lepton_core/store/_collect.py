"""Collection of what nothing leads to: versions first, in one transaction, then their files.

A deployment that runs at the same time is safe, because it checks inside its own transaction
that its files are still there, and files are removed inside transactions as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from datetime import datetime
from typing import TYPE_CHECKING

from lepton_core.store import _aliases, _faults
from lepton_core.store._cas import TEMPORARY
from lepton_core.store._failpoints import reach
from lepton_core.store._ledger import HEAD
from lepton_core.store._types import AliasState, GcReport
from lepton_core.store._views import FOLDER as VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lepton_core.store._database import Transaction
    from lepton_core.store._store import Store

_BATCH = 64
_LEFTOVER_AGE = 86_400.0


def collect(store: Store, *, grace: float, keep: int, dry_run: bool, now: float) -> GcReport:
    """Do what :meth:`.Store.gc` says."""
    protected = _protected(store, keep)
    with store.database.write("a collection") as transaction:
        gone = _removable(store, transaction, protected, now - grace, keep)
        if not dry_run:
            for version in gone:
                _remove_version(transaction, version)
    if gone and not dry_run:
        reach("gc.versions-removed")
    # Whoever adds a version again that has just gone must keep its files.
    files, size = _sweep(store, gone if dry_run else (), now - grace, dry_run=dry_run)
    leftovers = _sweep_leftovers(store, now, grace, dry_run=dry_run)
    if files and not dry_run:
        with store.database.write("a collection") as transaction:
            details = {"versions": list(gone), "files": files, "bytes": size}
            transaction.append("gc.files", details=details)
        reach("gc.files-removed")
    return GcReport(gone, files, size, leftovers, dry_run)


def _protected(store: Store, keep: int) -> dict[AliasState, set[str]]:
    """Return what each alias leads to now and by rollback."""
    return {state: _reachable(store, state, keep) for state in store.aliases()}


def _reachable(store: Store, state: AliasState, keep: int) -> set[str]:
    earlier = (row.details["version"] for row in _aliases.back_chain(store.database, state))
    found = [state.version]
    for version in earlier:
        if len(found) > keep:
            break
        if version not in found:
            found.append(version)
    return set(found)


def _removable(
    store: Store,
    transaction: Transaction,
    protected: dict[AliasState, set[str]],
    before: float,
    keep: int,
) -> tuple[str, ...]:
    """Return the versions that nothing protects, judged inside the transaction."""
    kept: set[str] = set()
    for row in transaction.execute("SELECT name, alias, version, generation, seq FROM aliases"):
        state = AliasState(*row)
        # An alias that moved since it was looked at is looked at again.
        kept |= protected.get(state) or _reachable(store, state, keep)
    kept |= {version for (version,) in transaction.execute("SELECT version FROM pins")}
    for version, seq in transaction.execute(
        "SELECT version, max(seq) FROM entries GROUP BY version"
    ):
        added = datetime.fromisoformat(store.database.row(seq).time).timestamp()
        if added > before:
            kept.add(version)
    kept |= _lately_used(transaction, before) | _named_in_settings(transaction)
    rows = transaction.execute("SELECT version FROM versions ORDER BY version")
    return tuple(version for (version,) in rows if version not in kept)


def _lately_used(transaction: Transaction, before: float) -> set[str]:
    """Return what aliases have pointed to since *before*: a rollback may have been a mistake."""
    found: set[str] = set()
    rows = transaction.execute(
        "SELECT body FROM ledger WHERE kind IN ('alias.set', 'alias.remove') ORDER BY seq DESC"
    )
    for (body,) in rows:
        row = json.loads(body)
        if datetime.fromisoformat(row["time"]).timestamp() <= before:
            break
        found |= {row["details"].get("version"), row["details"].get("previous")} - {None}
    return found


def _named_in_settings(transaction: Transaction) -> set[str]:
    """Return what settings name under ``versions``: a dispatch table runs them."""
    found: set[str] = set()
    for (text,) in transaction.execute("SELECT value FROM settings"):
        value = json.loads(text)
        named = value.get("versions") if isinstance(value, dict) else None
        found |= {str(one) for one in named} if isinstance(named, list) else set()
    return found


def _remove_version(transaction: Transaction, version: str) -> None:
    transaction.append("version.remove", details={"version": version})
    for table in ("versions", "files", "entries"):
        transaction.execute(f"DELETE FROM {table} WHERE version=?", version)  # noqa: S608 - constant


def _sweep(store: Store, gone: tuple[str, ...], before: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove files that no version refers to; returns their number and bytes."""
    count = size = 0
    for batch in _batches(p for p in store.cas.files() if not p.name.startswith(TEMPORARY)):
        with store.database.write("a collection") as transaction:
            for path in batch:
                users = transaction.execute(
                    "SELECT version FROM files WHERE digest=?", f"sha256:{path.name}"
                )
                if any(version not in gone for (version,) in users):
                    continue
                freed = _remove_file(path, before, dry_run=dry_run)
                if freed is not None:
                    count, size = count + 1, size + freed
    return count, size


def _batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(paths, _BATCH)):
        yield batch


def _remove_file(path: Path, before: float, *, dry_run: bool) -> int | None:
    """Remove one old file; returns its size, ``None`` if it stays."""
    try:
        status = path.stat()
        if status.st_mtime > before:
            return None
        if not dry_run:
            path.unlink()
            reach("gc.file-removed")
    except FileNotFoundError:
        return None
    except PermissionError:  # Windows: someone reads it; the next collection takes it
        return None
    return status.st_size


def leftovers(root: Path) -> list[Path]:
    """Return temporary files of interrupted writes."""
    found = [p for p in root.glob("cas/sha256/*/*") if p.name.startswith(TEMPORARY)]
    return found + [p for p in root.iterdir() if p.name.startswith((f".{HEAD}.", ".lepton-store"))]


def _sweep_leftovers(store: Store, now: float, grace: float, *, dry_run: bool) -> int:
    """Remove old temporary files, and views that nobody has touched since.

    They may belong to a write or a session of this moment, so no grace is too short for them.
    """
    count = 0
    views = store.path / VIEWS
    before = now - max(grace, _LEFTOVER_AGE)
    for place in [*leftovers(store.path), *(views.iterdir() if views.is_dir() else ())]:
        with contextlib.suppress(FileNotFoundError), _faults.guard("a collection"):
            if place.stat().st_mtime > before:
                continue
            count += 1
            if dry_run:
                continue
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink()
            reach("gc.leftover-removed")
    return count


__all__ = ["collect", "leftovers"]
