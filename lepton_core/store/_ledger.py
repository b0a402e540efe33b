"""The ledger's arithmetic: bodies, the chain of hashes, the head, and the state it adds up to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lepton_core.files import write_atomic
from lepton_core.store import _faults
from lepton_core.store._types import AliasState, LedgerRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

GENESIS = "0" * 64
HEAD = "ledger.head"
CHANGES = (
    "store.create",
    "version.add",
    "version.remove",
    "alias.set",
    "alias.remove",
    "pin.add",
    "pin.remove",
    "setting.set",
)
"""Kinds of rows that change the state; every other kind only records."""


def canonical(data: Any) -> str:  # noqa: ANN401 - JSON types
    """Return the one JSON text of *data*: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: A number is not finite.
        TypeError: Something is no JSON type.
    """
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def now() -> str:
    """Return the present time, ISO 8601 with microseconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def row_hash(previous: str, body: str) -> str:
    """Return the hash of a row that follows the row of hash *previous*."""
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


def parse_row(seq: int, body: str, stored_hash: str) -> LedgerRow:
    """Return a row from its body.

    Raises:
        StorageError: LPT-STORE-004, the body is not what a ledger row holds.
    """
    try:
        data = json.loads(body)
        row = LedgerRow(
            seq,
            data["time"],
            data["kind"],
            data["name"],
            data["actor"],
            data["why"],
            data["details"],
            stored_hash,
        )
        if data["seq"] != seq:
            raise ValueError(f"it calls itself row {data['seq']}")
    except (ValueError, KeyError, TypeError) as error:
        raise _faults.damaged(f"ledger row {seq}", f"{type(error).__name__}: {error}") from error
    return row


# --- the head ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the chain: number and hash of a row."""

    seq: int = 0
    hash: str = GENESIS


def write_head(root: Path, committed: Mark, pending: Mark | None) -> None:
    """Write down how far the ledger goes, outside the database.

    Without it a database that lost its last rows would look like an older, whole one. *pending*
    is announced before the commit, so that a crash on either side of it is no damage.
    """
    data = {
        "committed": [committed.seq, committed.hash],
        "pending": None if pending is None else [pending.seq, pending.hash],
    }
    text = canonical({**data, "check": row_hash("head", canonical(data))})
    write_atomic(root / HEAD, text + "\n")


def read_head(root: Path) -> tuple[Mark, Mark | None]:
    """Return what is committed at least, and what was about to be.

    Raises:
        StorageError: LPT-STORE-004, the file is missing or not as it was written.
    """
    place = root / HEAD
    try:
        text = place.read_bytes().decode()
        data = json.loads(text)
        check = data.pop("check")
        if check != row_hash("head", canonical(data)):
            raise ValueError("its check sum is wrong")
        if text != canonical({**data, "check": check}) + "\n":
            raise ValueError("it is not canonical JSON")
        pending = data["pending"]
        return Mark(*data["committed"]), None if pending is None else Mark(*pending)
    except FileNotFoundError as error:
        raise _faults.damaged(f"the ledger's head ({HEAD})", "the file is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise _faults.damaged(f"the ledger's head ({HEAD})", reason) from error


# --- the state that the rows add up to ----------------------------------------------------------


@dataclass(slots=True)
class State:
    """Everything that the tables must say, as the ledger tells it."""

    versions: dict[str, str] = field(default_factory=dict)
    entries: dict[tuple[str, str], int] = field(default_factory=dict)
    aliases: dict[tuple[str, str], AliasState] = field(default_factory=dict)
    pins: dict[tuple[str, str], int] = field(default_factory=dict)
    settings: dict[tuple[str, str], tuple[str, int, int]] = field(default_factory=dict)

    def apply(self, row: LedgerRow) -> None:
        """Add one row.

        Raises:
            KeyError: The row changes something that is not there.
        """
        details, name = row.details, row.name
        if row.kind == "version.add":
            self.versions[details["version"]] = details["manifest"]
            self.entries[name, details["version"]] = row.seq
        elif row.kind == "version.remove":
            self._remove(details["version"])
        elif row.kind == "alias.set":
            alias, version = details["alias"], details["version"]
            moved = AliasState(name, alias, version, details["generation"], row.seq)
            self.aliases[name, alias] = moved
        elif row.kind == "alias.remove":
            del self.aliases[name, details["alias"]]
        elif row.kind == "pin.add":
            self.pins[details["version"], details["reason"]] = row.seq
        elif row.kind == "pin.remove":
            del self.pins[details["version"], details["reason"]]
        elif row.kind == "setting.set":
            value = (canonical(details["value"]), details["generation"], row.seq)
            self.settings[name, details["key"]] = value

    def _remove(self, version: str) -> None:
        del self.versions[version]
        self.entries = {k: seq for k, seq in self.entries.items() if k[1] != version}
        self.pins = {k: seq for k, seq in self.pins.items() if k[0] != version}


def replay(rows: Iterable[LedgerRow]) -> State:
    """Return the state after all *rows*.

    Raises:
        StorageError: LPT-STORE-004, a row does not fit those before it.
    """
    state = State()
    for row in rows:
        try:
            state.apply(row)
        except (KeyError, TypeError) as error:
            reason = f"{row.kind} does not fit the rows before it: {error}"
            raise _faults.damaged(f"ledger row {row.seq}", reason) from error
    return state


def make_body(
    seq: int, kind: str, name: str, *, actor: str, why: str, details: Mapping[str, Any]
) -> str:
    """Return the canonical text of a new row."""
    return canonical(
        {
            "seq": seq,
            "time": now(),
            "kind": kind,
            "name": name,
            "actor": actor,
            "why": why,
            "details": dict(details),
        }
    )


__all__ = [
    "CHANGES",
    "GENESIS",
    "HEAD",
    "Mark",
    "State",
    "canonical",
    "make_body",
    "now",
    "parse_row",
    "read_head",
    "replay",
    "row_hash",
    "write_head",
]
