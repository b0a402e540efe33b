"""What was changed, why, and with what effect: every step is a row of the store's ledger.

The setting ``dispatch.<alias>`` holds the table and the record of the change that led to it, and
moves by compare-and-swap; so the record of a change and the change itself are one transaction,
and the ledger's rows about the setting are the history.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core.deployment._routes import Dispatch, Route, read_routes, setting_key
from lepton_core.errors import AdjustError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.store import AliasState, Resolved, Store

TRIAL, KEPT, REVERTED = "trial", "kept", "reverted"
UNDONE, INTERRUPTED = "undone", "interrupted"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a dispatch table, as it stands in the ledger.

    Attributes:
        id: Short id.
        state: ``"trial"``, ``"kept"``, ``"reverted"``, ``"undone"`` or ``"interrupted"``; in the
            result of a dry run ``"planned"``.
        objective: What was to improve.
        cause: Why it was tried, in words.
        verdict: How it ended, in words.
        policy: Policy that planned it.
        routes_before: Routes that counted before, and
        routes_after: after it.
        predicted: ``ratio`` of the cost after over the cost before; below 1 is better.
        measured: The same as measured, with its interval; empty until then.
        parent: Change that led to the routes before, ``""`` for none.
        considered: What was observed, and what was refused.
        undoes: Change that this one takes back, ``""`` for none.
        seq: Row of the ledger.
        time: ISO 8601, UTC.
    """

    id: str
    state: str
    objective: str = ""
    cause: str = ""
    verdict: str = ""
    policy: str = ""
    routes_before: tuple[Route, ...] = ()
    routes_after: tuple[Route, ...] = ()
    predicted: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    considered: Mapping[str, Any] = field(default_factory=dict)
    undoes: str = ""
    seq: int = 0
    time: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Change:
        """Return a change from a table's record."""
        known = {key: record[key] for key in cls.__dataclass_fields__ if key in record}
        for key in ("routes_before", "routes_after"):
            known[key] = read_routes(known.get(key, ()))
        return cls(**known)


def new_id() -> str:
    """Return a new id of a change."""
    return secrets.token_hex(4)


class Tables:
    """The dispatch table of one alias, and the ways in which it moves.

    Args:
        store: The store.
        base: What the alias points to now.

    Raises:
        DeployError: LPT-DEP-010, what is stored is no table.
    """

    def __init__(self, store: Store, base: Resolved) -> None:
        if base.alias is None:
            msg = "only an alias has a dispatch table"
            raise ValueError(msg)
        self._store = store
        self._alias: AliasState = base.alias
        self._base = base.version.id
        self._key = setting_key(base.alias.alias)
        self._read()

    def _read(self) -> None:
        setting = self._store.settings(self._alias.name).get(self._key)
        self._generation = setting.generation if setting else 0
        found = Dispatch.of(setting.value) if setting and setting.value else None
        self.present = found if found and found.base == self._base else Dispatch(self._base)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes that count now; one for everything if there is no table."""
        return self.present.effective(time.time()) or (Route(self._base),)

    def _write(self, table: Dispatch, why: str) -> None:
        setting = self._store.set_setting(
            self._alias.name, self._key, table.to_value(), expect=self._generation, why=why
        )
        self._generation, self.present = setting.generation, table

    def settle(self) -> Change | None:
        """End a trial that its process did not end; returns the change, if there was one.

        Raises:
            AdjustError: LPT-ADJ-002, another process is trying a change just now.
        """
        if self.present.until is None:
            return None
        left = self.present.until - time.time()
        record = Change.of(self.present.record)
        if left > 0:
            raise AdjustError(
                "LPT-ADJ-002",
                f"{self._alias.name}@{self._alias.alias} is being adjusted by another process",
                cause=f"change {record.id} is on trial for another {left:.0f} s at most",
                remedy="Wait until it has ended.",
                details={"change": record.id, "until": self.present.until},
            )
        return self.finish(record, INTERRUPTED, "its process ended before it was measured")

    def try_out(self, change: Change, seconds: float) -> None:
        """Let the routes of a change count for a while."""
        change = replace(
            change,
            state=TRIAL,
            routes_before=self.routes,
            parent=self.present.change,
        )
        table = Dispatch(
            self._base,
            change.routes_after,
            time.time() + seconds,
            self.routes,
            change.id,
            change.to_dict(),
        )
        self._write(table, f"trial of {change.id}: {change.cause}")

    def finish(
        self, change: Change, state: str, verdict: str, measured: Mapping[str, Any] | None = None
    ) -> Change:
        """End the trial of a change: keep its routes, or go back to those before it."""
        begun = Change.of(self.present.record)
        ended = replace(begun, state=state, verdict=verdict, measured=dict(measured or {}))
        kept = state == KEPT
        table = Dispatch(
            self._base,
            ended.routes_after if kept else self._plain(ended.routes_before),
            change=ended.id if kept else ended.parent,
            record=ended.to_dict(),
        )
        self._write(table, f"{state} {change.id}: {verdict}")
        return ended

    def _plain(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return () if routes == (Route(self._base),) else routes

    def undo(self, why: str) -> Change:
        """Take back the change that the present routes come from; again goes further back.

        Raises:
            AdjustError: LPT-ADJ-003, there is none.
        """
        head = self.present.change
        done = next((c for c in reversed(self.history()) if c.id == head and c.state == KEPT), None)
        if done is None:
            raise AdjustError(
                "LPT-ADJ-003",
                f"{self._alias.name}@{self._alias.alias} has no change to take back",
                cause=f"{self._base} runs as it was deployed",
                remedy="`lepton adjust log NAME` shows what was changed under earlier versions.",
            )
        verdict = why or f"taken back: {done.cause}"
        undone = Change(
            new_id(),
            UNDONE,
            done.objective,
            verdict,
            verdict,
            routes_before=self.routes,
            routes_after=done.routes_before,
            parent=done.parent,
            undoes=done.id,
        )
        table = Dispatch(
            self._base,
            self._plain(done.routes_before),
            change=done.parent,
            record=undone.to_dict(),
        )
        self._write(table, f"undo {done.id}: {verdict}")
        return undone

    def history(self) -> tuple[Change, ...]:
        """Return every step, oldest first, also those under other versions."""
        found = []
        for row in self._store.ledger(name=self._alias.name, kind="setting.set"):
            value = row.details["value"]
            if row.details["key"] != self._key or not value or not value.get("record"):
                continue
            found.append(replace(Change.of(value["record"]), seq=row.seq, time=row.time))
        return tuple(found)


def history(store: Store, reference: str) -> tuple[Change, ...]:
    """Return every change of ``NAME`` or ``NAME@ALIAS``, oldest first.

    Raises:
        UsageError: LPT-STORE-006 … 009, there is no such alias.
    """
    return Tables(store, with_alias(store, reference)).history()


def undo(store: Store, reference: str, *, why: str = "") -> Change:
    """Take back the last change that was kept; again goes further back.

    Raises:
        AdjustError: LPT-ADJ-002 (a change is on trial), LPT-ADJ-003 (nothing to take back).
        DeployError: LPT-STORE-010, someone else changed the table meanwhile.
        UsageError: LPT-STORE-006 … 009.
    """
    tables = Tables(store, with_alias(store, reference))
    tables.settle()
    return tables.undo(why)


def explain(store: Store, reference: str) -> dict[str, Any]:
    """Return what runs now and why: routes with their variants, and the change behind them.

    Returns:
        JSON types: ``name``, ``alias``, ``version``, ``routes``, ``on_trial``, ``change`` (the
        one that led to the routes, or ``None``) and ``last`` (the last step, kept or not).
    """
    base = with_alias(store, reference)
    tables = Tables(store, base)
    steps = tables.history()
    head = tables.present.change
    led = next((c for c in reversed(steps) if c.id == head and c.state in (KEPT, TRIAL)), None)
    versions = {v.id: v for v in store.versions(base.name)}
    routes = [
        {
            **route.to_dict(),
            "target": versions[route.version].target if route.version in versions else "",
            "precision": versions[route.version].precision if route.version in versions else "",
        }
        for route in tables.routes
    ]
    return {
        "name": base.name,
        "alias": base.alias.alias if base.alias else "",
        "version": base.version.id,
        "routes": routes,
        "on_trial": tables.present.until is not None and not tables.present.over(time.time()),
        "change": led.to_dict() if led else None,
        "last": steps[-1].to_dict() if steps else None,
    }


def with_alias(store: Store, reference: str) -> Resolved:
    """Return what an alias points to.

    Raises:
        AdjustError: LPT-ADJ-004, the reference names a version, which never moves.
    """
    found = store.resolve(reference)
    if found.alias is None:
        raise AdjustError(
            "LPT-ADJ-004",
            f"{reference} names a version; only what an alias points to is adjusted",
            remedy=f"Write {found.name}@ALIAS; `lepton store list` shows them.",
        )
    return found


__all__ = [
    "INTERRUPTED",
    "KEPT",
    "REVERTED",
    "TRIAL",
    "UNDONE",
    "Change",
    "Tables",
    "explain",
    "history",
    "new_id",
    "undo",
    "with_alias",
]
