"""The journal of a migration: one setting per alias, each change of it a row of the ledger."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.errors import DeployError, LeptonError, MigrateError
from lepton_core.migration._owner import Owner  # noqa: TC001 - msgspec resolves it at run time
from lepton_core.store import _aliases
from lepton_core.store._failpoints import reach

if TYPE_CHECKING:
    from lepton_core.store import Store
    from lepton_core.store._database import Transaction

ENDED = ("done", "returned")
STEPS = ("plan", "build", "verify", "switch", "watch", *ENDED)
_POINTS = {
    "build": "migrate.planned",
    "verify": "migrate.built",
    "switch": "migrate.verified",
    "watch": "migrate.switched",
}


@dataclass(frozen=True)
class Record:
    """Where a migration stands.

    Attributes:
        id: ``"m"`` and 12 hex digits.
        step: The step that is under way; ``"done"`` or ``"returned"`` once it ended.
        alias: Alias that is to move.
        generation: Its generation when the migration was planned.
        source: Version that it pointed to then.
        source_target: Target string of that version.
        target: Target string to move to.
        owner: The process at work.
        options: What was asked for, so that the migration can be taken up again.
        candidate: Version that was built, once it is stored.
        result: Version that was proved, with its passport, once it is stored.
        moved: Generation of the alias after the switch; 0 before.
        since: Ledger row of the switch; 0 before.
        measured: Number of the last measurement before the switch.
        until: When the watch ends, seconds since the epoch.
        why: Why it ended as it did.
        code: Code of the error that ended it, if one did.
        facts: Numbers of the proof (JSON types).
    """

    id: str
    step: str
    alias: str
    generation: int
    source: str
    source_target: str
    target: str
    owner: Owner
    options: Mapping[str, Any] = field(default_factory=dict)
    candidate: str = ""
    result: str = ""
    moved: int = 0
    since: int = 0
    measured: int = 0
    until: float = 0.0
    why: str = ""
    code: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step in ENDED

    @property
    def pin(self) -> str:
        """Reason under which its versions are pinned."""
        return f"migration {self.id}"


def lost_race(error: LeptonError) -> bool:
    """Tell whether someone else moved the alias or the journal first."""
    return error.code == "LPT-STORE-010"


def new_id() -> str:
    """Return an id that no other migration has."""
    return f"m{secrets.token_hex(6)}"


def key_of(alias: str) -> str:
    """Return the key of the setting that is an alias's journal."""
    return f"migrate.{alias}"


def read(store: Store, name: str, alias: str) -> tuple[Record | None, int]:
    """Return the last migration of an alias, and how often its journal was written.

    Raises:
        StorageError: LPT-STORE-004, the journal is not what the ledger says.
        MigrateError: LPT-MIG-009, it was written by a later version, or by something else.
    """
    setting = store.settings(name).get(key_of(alias))
    if setting is None or setting.value is None:
        return None, setting.generation if setting else 0
    return _parse(setting.value, name, alias), setting.generation


def _parse(value: Any, name: str, alias: str) -> Record:  # noqa: ANN401 - JSON types
    try:
        record = codec.from_data(value, Record)
        if record.step not in STEPS:
            raise ValueError(f"the step {record.step!r} is not known")
    except (LeptonError, ValueError) as error:
        cause = error.cause if isinstance(error, LeptonError) else str(error)
        raise MigrateError(
            "LPT-MIG-009",
            f"The journal of migrations of {name}@{alias} cannot be read",
            cause=cause,
            remedy=f"Upgrade lepton-core, or drop it: `lepton store set {name} "
            f"{key_of(alias)} --clear`; the alias stays where it is.",
        ) from error
    return record


class Journal:
    """The journal of one alias, as this process last saw it.

    Every write expects the state that was seen last, so of two processes at one migration, or of
    a process and a deployment handle, exactly one goes on.

    Args:
        store: The store.
        name: Name of the deployment.
        alias: Its alias.
    """

    def __init__(self, store: Store, name: str, alias: str) -> None:
        self.store = store
        self.name = name
        self.alias = alias
        self.record, self._generation = read(store, name, alias)
        self._pending: Record | None = None

    @property
    def present(self) -> Record:
        """The migration at work."""
        if self.record is None:
            msg = "there is no migration"
            raise RuntimeError(msg)
        return self.record

    def write(self, record: Record, *, pin: tuple[str, ...] = ()) -> None:
        """Write a step that changes nothing else, in a transaction of its own.

        Raises:
            DeployError: LPT-STORE-010, someone else wrote meanwhile.
            StorageError: The store is busy, full or damaged; nothing was changed.
        """
        with self.store.database.write(f"the journal of {self.name}@{self.alias}") as transaction:
            self.within(transaction, record, pin=pin)
        self.settle()

    def within(
        self, transaction: Transaction, record: Record, *, pin: tuple[str, ...] = ()
    ) -> None:
        """Write a step inside a transaction; :meth:`settle` once it is committed.

        Args:
            transaction: The transaction.
            record: The new state; one that ended withdraws all pins.
            pin: Versions to protect from collection until it ends.
        """
        record = replace(record, owner=replace(record.owner, seen=round(time.time(), 3)))
        if record.ended:
            for (version,) in transaction.execute(
                "SELECT version FROM pins WHERE reason=? ORDER BY version", record.pin
            ):
                _aliases.unpin(transaction, self.name, version, record.pin, "")
        for version in pin:
            _aliases.pin(transaction, self.name, version, record.pin, "")
        data = codec.to_data(record)
        _aliases.set_setting(
            transaction,
            self.name,
            key_of(self.alias),
            data,
            expect=self._generation,
            why=f"migration {record.id}: {record.step}" + (f", {record.why}" if record.why else ""),
        )
        self._pending = codec.from_data(data, Record)  # equal to what will be read again

    def settle(self) -> None:
        """Take over what a committed transaction wrote."""
        if self._pending is None:
            return
        before = self.record
        self.record, self._pending = self._pending, None
        self._generation += 1
        if self.record.ended:
            watched = before is not None and before.step == "watch"
            if watched:
                reach("migrate.watched")
            reach("migrate.ended")
        elif before is None or before.step != self.record.step:
            point = _POINTS.get(self.record.step)
            if point:
                reach(point)

    def refresh(self) -> Record | None:
        """Read what stands there now."""
        self._pending = None
        self.record, self._generation = read(self.store, self.name, self.alias)
        return self.record

    def finish(self, step: str, why: str, *, code: str = "", **facts: Any) -> Record:  # noqa: ANN401
        """End the migration without moving the alias; returns how it ended."""
        record = self.present
        merged = {**record.facts, **facts}
        self.write(replace(record, step=step, why=why, code=code, facts=merged))
        return self.present

    def roll_back(self, why: str, **facts: Any) -> Record:  # noqa: ANN401 - JSON types
        """End the migration and move the alias back, both or nothing; returns how it ended.

        Raises:
            DeployError: LPT-STORE-010, the alias or the journal moved meanwhile.
        """
        record = self.present
        ended = replace(record, step="returned", why=why, facts={**record.facts, **facts})
        self.store.rollback(
            self.name,
            self.alias,
            to=record.source,
            expect=record.moved,
            why=f"migration {record.id}: {why}",
            also=lambda transaction, _: self.within(transaction, ended),
        )
        self.settle()
        return self.present


def return_watched(store: Store, name: str, alias: str, version: str, why: str) -> bool:
    """Move an alias back if it was migrated to *version* and is still watched.

    A deployment handle calls it when that version alarms, so a migration returns although the
    process that ran it died.

    Args:
        store: The store.
        name: Name of the deployment.
        alias: Its alias.
        version: The version that alarmed.
        why: The alarm in words.

    Returns:
        Whether the alias was moved back by this call.

    Raises:
        StorageError: The store is busy, full or damaged; nothing was changed.
    """
    journal = Journal(store, name, alias)
    record = journal.record
    watched = record is not None and record.step == "watch" and time.time() <= record.until
    if not watched or record is None or record.result != version:
        return False
    try:
        journal.roll_back(why, alarm=why)
    except DeployError as error:
        if not lost_race(error):
            raise
        return False
    return True


def history(store: Store, name: str, alias: str | None = None) -> tuple[dict[str, Any], ...]:
    """Return every step of every migration of a deployment, oldest first.

    Args:
        store: The store.
        name: Name of the deployment.
        alias: One alias only.

    Returns:
        One mapping per step: ``seq``, ``time``, ``actor`` and the fields of :class:`Record`.
    """
    found = []
    for row in store.ledger(name=name, kind="setting.set"):
        key, value = str(row.details.get("key", "")), row.details.get("value")
        if not key.startswith("migrate.") or value is None:
            continue
        if alias is None or key == key_of(alias):
            with contextlib.suppress(MigrateError):
                record = _parse(value, name, key.removeprefix("migrate."))
                step = {"seq": row.seq, "time": row.time, "actor": row.actor}
                found.append({**step, **codec.to_data(record)})
    return tuple(found)


__all__ = [
    "ENDED",
    "Journal",
    "Record",
    "history",
    "key_of",
    "lost_race",
    "new_id",
    "read",
    "return_watched",
]
