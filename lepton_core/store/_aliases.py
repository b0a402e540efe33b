"""Aliases, pins and settings: rows that move by compare-and-swap, each move a ledger row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lepton_core.errors import DeployError
from lepton_core.store import _faults
from lepton_core.store._ledger import canonical
from lepton_core.store._names import check_alias, check_name
from lepton_core.store._types import AliasState, LedgerRow, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.store._database import Database, Transaction

_COLUMNS = "name, alias, version, generation, seq"


def read(database: Database, name: str, alias: str) -> AliasState | None:
    """Return where an alias points, after checking the ledger row that moved it there.

    Raises:
        StorageError: LPT-STORE-004, table and ledger do not agree.
    """
    rows = database.select(
        f"SELECT {_COLUMNS} FROM aliases WHERE name=? AND alias=?",  # noqa: S608 - constant
        name,
        alias,
    )
    if not rows:
        return None
    state = AliasState(*rows[0])
    if state_of(database.row(state.seq)) != state:
        raise _faults.damaged(
            f"the alias {name}@{alias}", f"it is not what ledger row {state.seq} says"
        )
    return state


def state_of(row: LedgerRow) -> AliasState | None:
    """Return the state that a ledger row set an alias to."""
    if row.kind != "alias.set":
        return None
    details = row.details
    return AliasState(
        row.name, details["alias"], details["version"], details["generation"], row.seq
    )


def present(transaction: Transaction, name: str, alias: str) -> AliasState | None:
    """Return where an alias points inside a transaction."""
    rows = transaction.execute(
        f"SELECT {_COLUMNS} FROM aliases WHERE name=? AND alias=?",  # noqa: S608 - constant
        name,
        alias,
    )
    return AliasState(*rows[0]) if rows else None


def move(
    transaction: Transaction,
    name: str,
    alias: str,
    version: str,
    *,
    expect: int,
    back: int | None,
    action: str,
    why: str,
) -> AliasState:
    """Point an alias at a version if it was moved *expect* times so far.

    Args:
        transaction: The transaction to do it in.
        name: Name of the deployment.
        alias: The alias.
        version: Where to.
        expect: Generation that the caller has seen; 0 if there was no such alias.
        back: Ledger row of the state that a rollback returns to.
        action: ``"promote"`` or ``"rollback"``.
        why: Reason, for the ledger.

    Raises:
        DeployError: LPT-STORE-010, it moved meanwhile.
    """
    now = present(transaction, name, alias)
    generation = last_generation(transaction, name, alias) if now is None else now.generation
    if generation != expect and not (now is None and expect == 0):
        shown = now.to_dict() if now else {"version": None, "generation": generation}
        raise _faults.moved(name, alias, expect, shown)
    details = {
        "alias": alias,
        "version": version,
        "generation": generation + 1,
        "previous": now.version if now else None,
        "back": back,
        "action": action,
    }
    seq = transaction.append("alias.set", name, why=why, details=details)
    transaction.execute(
        f"INSERT INTO aliases({_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT(name, alias) "  # noqa: S608
        "DO UPDATE SET version=excluded.version, generation=excluded.generation, seq=excluded.seq",
        name,
        alias,
        version,
        generation + 1,
        seq,
    )
    return AliasState(name, alias, version, generation + 1, seq)


def last_generation(transaction: Transaction, name: str, alias: str) -> int:
    """Return the generation that a removed alias had, so that a token is never valid twice."""
    rows = transaction.execute(
        "SELECT body FROM ledger WHERE name=? AND kind='alias.remove' ORDER BY seq DESC", name
    )
    for (body,) in rows:
        details = json.loads(body)["details"]
        if details["alias"] == alias:
            return int(details["generation"])
    return 0


def back_chain(database: Database, state: AliasState) -> Iterator[LedgerRow]:
    """Yield the rows that repeated rollbacks would return to, nearest first."""
    back = database.row(state.seq).details["back"]
    while back is not None:
        row = database.row(back)
        yield row
        back = row.details["back"]


def rollback_row(database: Database, state: AliasState, to: str | None) -> LedgerRow:
    """Return the earlier state to go back to.

    Raises:
        DeployError: LPT-STORE-011, there is none, or it was collected.
    """
    where = f"{state.name}@{state.alias}"
    for row in back_chain(database, state):
        version = row.details["version"]
        if to is not None and not version.startswith(to):
            continue
        if version == state.version:
            continue
        if not database.select(
            "SELECT 1 FROM entries WHERE name=? AND version=?", state.name, version
        ):
            raise DeployError(
                "LPT-STORE-011",
                f"{where} cannot go back to {version}",
                cause="it was removed from the store by a collection",
                remedy="`lepton store show NAME` lists what is there; promote one of these.",
            )
        return row
    asked = f"the version {to}" if to else "an earlier version"
    raise DeployError(
        "LPT-STORE-011",
        f"{where} has no history of {asked} to go back to",
        cause=f"it points to {state.version}, generation {state.generation}",
        remedy="`lepton store history NAME` shows where it has pointed.",
    )


# --- pins --------------------------------------------------------------------------------------


def pin(transaction: Transaction, name: str, version: str, reason: str, why: str) -> None:
    """Protect a version from collection for as long as *reason* stands."""
    if transaction.execute("SELECT 1 FROM pins WHERE version=? AND reason=?", version, reason):
        return
    details = {"version": version, "reason": reason}
    seq = transaction.append("pin.add", name, why=why, details=details)
    transaction.execute(
        "INSERT INTO pins(version, reason, seq) VALUES (?, ?, ?)", version, reason, seq
    )


def unpin(transaction: Transaction, name: str, version: str, reason: str, why: str) -> None:
    """Withdraw one reason; nothing happens if it does not stand."""
    if not transaction.execute("SELECT 1 FROM pins WHERE version=? AND reason=?", version, reason):
        return
    details = {"version": version, "reason": reason}
    transaction.append("pin.remove", name, why=why, details=details)
    transaction.execute("DELETE FROM pins WHERE version=? AND reason=?", version, reason)


# --- settings ----------------------------------------------------------------------------------


def read_settings(database: Database, name: str) -> dict[str, Setting]:
    """Return a deployment's settings, each checked against its ledger row.

    Raises:
        StorageError: LPT-STORE-004, table and ledger do not agree.
    """
    found = {}
    for key, value, generation, seq in database.select(
        "SELECT key, value, generation, seq FROM settings WHERE name=?", name
    ):
        row = database.row(seq)
        says = (row.name, row.details.get("key"), row.details.get("generation"))
        if says != (name, key, generation) or canonical(row.details.get("value")) != value:
            raise _faults.damaged(
                f"the setting {key!r} of {name}", f"it is not what ledger row {seq} says"
            )
        found[key] = Setting(name, key, json.loads(value), generation, seq)
    return found


def set_setting(
    transaction: Transaction,
    name: str,
    key: str,
    value: Any,  # noqa: ANN401 - JSON types
    *,
    expect: int,
    why: str,
) -> Setting:
    """Change a setting if it was changed *expect* times so far.

    Raises:
        DeployError: LPT-STORE-010, it was changed meanwhile.
    """
    check_name(key, "setting")
    rows = transaction.execute(
        "SELECT value, generation FROM settings WHERE name=? AND key=?", name, key
    )
    old, generation = rows[0] if rows else ("null", 0)
    if generation != expect:
        shown = {"version": old, "generation": generation}
        raise _faults.moved(name, key, expect, shown)
    details = {
        "key": key,
        "value": value,
        "generation": generation + 1,
        "previous": json.loads(old),
    }
    seq = transaction.append("setting.set", name, why=why, details=details)
    transaction.execute(
        "INSERT INTO settings(name, key, value, generation, seq) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT(name, key) DO UPDATE SET value=excluded.value, "
        "generation=excluded.generation, seq=excluded.seq",
        name,
        key,
        canonical(value),
        generation + 1,
        seq,
    )
    return Setting(name, key, value, generation + 1, seq)


__all__ = [
    "back_chain",
    "check_alias",
    "move",
    "pin",
    "present",
    "read",
    "read_settings",
    "rollback_row",
    "set_setting",
    "state_of",
    "unpin",
]
