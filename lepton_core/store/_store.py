"""The store: what moves on top of the versions, and the proof that nothing else did."""

from __future__ import annotations

import difflib
import time
from typing import TYPE_CHECKING, Any

from lepton_core.errors import DeployError, UsageError
from lepton_core.store import _aliases, _collect, _faults, _names, _verify
from lepton_core.store._ledger import CHANGES, parse_row
from lepton_core.store._versions import VersionStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_core.store._database import Transaction
    from lepton_core.store._types import AliasState, GcReport, LedgerRow, Setting, VerifyReport

    Also = Callable[[Transaction, AliasState], object]

DAY = 86_400.0


class Store(VersionStore):
    """A folder of immutable versions, with aliases that move and a ledger that does not.

    Several processes and threads may use one store at once. Every change is one transaction with
    its row in the ledger; a crash leaves the store as before or as after. Nothing that is stored
    is used before it has been compared with its digest.

    Args:
        path: The folder; ``LEPTON_STORE`` or the user's data folder by default. It is made if it
            is missing or empty.
        create: Whether to make a store that is not there.
        timeout: Seconds to wait for other processes before saying that the store is busy.
        actor: Who is written into the ledger; the user's name by default.

    Raises:
        StorageError: LPT-STORE-001 (the folder holds something else), LPT-STORE-002 (there is
            no store and ``create`` is false), LPT-STORE-003 and LPT-STORE-004 (damaged),
            LPT-STORE-014 (written by a later version), LPT-IO-001, LPT-IO-002.
    """

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    # --- aliases ------------------------------------------------------------------------------

    def alias(self, name: str, alias: str = "production") -> AliasState | None:
        """Return where an alias points, ``None`` if there is none of this name."""
        return _aliases.read(self.database, name, alias)

    def promote(
        self,
        name: str,
        version: str,
        alias: str = "production",
        *,
        expect: int | None = None,
        why: str = "",
        also: Also | None = None,
    ) -> AliasState:
        """Point an alias at a version.

        Args:
            name: Name of the deployment.
            version: Version, its beginning, or another alias whose version is meant.
            alias: Alias to move; it is made if it is not there.
            expect: Generation that the caller has seen; the one at the time of the call by
                default.
            why: Reason, for the ledger.
            also: Further changes of the same transaction.

        Returns:
            Where the alias points now; unchanged if it pointed there before.

        Raises:
            DeployError: LPT-STORE-010, someone else moved it meanwhile; nothing was changed.
            UsageError: LPT-STORE-006 … 009.
            StorageError: The store is damaged, busy or full; nothing was changed.
        """
        _names.check_alias(alias)
        expect = self._generation(name, alias) if expect is None else expect
        found = self.resolve(f"{name}@{version}").version
        with self.database.write(f"the alias {name}@{alias}") as transaction:
            _require(transaction, name, found.id)
            moved = self._move(transaction, name, alias, found.id, expect=expect, why=why)
            if also is not None:
                also(transaction, moved)
        return moved

    def rollback(
        self,
        name: str,
        alias: str = "production",
        *,
        to: str | None = None,
        expect: int | None = None,
        why: str = "",
        also: Also | None = None,
    ) -> AliasState:
        """Point an alias at the version it pointed to before; again goes further back.

        Args:
            name: Name of the deployment.
            alias: The alias.
            to: Version of its history to go back to; the one before by default.
            expect: As for :meth:`promote`.
            why: Reason, for the ledger.
            also: Further changes of the same transaction.

        Raises:
            DeployError: LPT-STORE-010 (it moved meanwhile), LPT-STORE-011 (nothing to go back to).
            UsageError: LPT-STORE-007, LPT-STORE-009.
        """
        state = self._present(name, alias)
        row = _aliases.rollback_row(self.database, state, to)
        with self.database.write(f"the alias {name}@{alias}") as transaction:
            _require(transaction, name, row.details["version"])
            moved = _aliases.move(
                transaction,
                name,
                alias,
                row.details["version"],
                expect=state.generation if expect is None else expect,
                back=row.details["back"],
                action="rollback",
                why=why,
            )
            if also is not None:
                also(transaction, moved)
        return moved

    def _present(self, name: str, alias: str) -> AliasState:
        """Return where an alias points.

        Raises:
            UsageError: LPT-STORE-007, LPT-STORE-009.
        """
        _names.check_alias(alias)
        self._version_ids(_names.check_name(name))
        state = _aliases.read(self.database, name, alias)
        if state is None:
            known = [a.alias for a in self.aliases(name)]
            near = difflib.get_close_matches(alias, known, n=2, cutoff=0.5)
            raise _faults.unknown(
                "alias", f"{name}@{alias}", near, code="LPT-STORE-009", present=known
            )
        return state

    def remove_alias(self, name: str, alias: str, *, why: str = "") -> None:
        """Take an alias away; the version stays until it is collected.

        Raises:
            UsageError: LPT-STORE-007, LPT-STORE-009.
        """
        state = self._present(name, alias)
        with self.database.write(f"the alias {name}@{alias}") as transaction:
            now = _aliases.present(transaction, name, alias)
            if now != state:
                shown = now.to_dict() if now else {"version": None, "generation": 0}
                raise _faults.moved(name, alias, state.generation, shown)
            details = {"alias": alias, "generation": now.generation, "previous": now.version}
            transaction.append("alias.remove", name, why=why, details=details)
            transaction.execute("DELETE FROM aliases WHERE name=? AND alias=?", name, alias)

    def history(self, name: str, alias: str = "production") -> tuple[LedgerRow, ...]:
        """Return every move of an alias, oldest first."""
        rows = self.ledger(name=name, kind="alias.set") + self.ledger(
            name=name, kind="alias.remove"
        )
        return tuple(sorted((r for r in rows if r.details["alias"] == alias), key=lambda r: r.seq))

    def watch(self, name: str, alias: str) -> tuple[str, int, int]:
        """Return version, generation and number of changed settings; cheap enough to poll.

        It reads two rows and checks none: follow a change with :meth:`resolve`. The version is
        ``""`` if there is no such alias. The journals of migrations are settings that change
        nothing about a session, and do not count.
        """
        rows = self.database.select(
            "SELECT (SELECT version FROM aliases WHERE name=?1 AND alias=?2), "
            "(SELECT generation FROM aliases WHERE name=?1 AND alias=?2), "
            "(SELECT total(generation) FROM settings WHERE name=?1 AND key NOT LIKE 'migrate.%')",
            name,
            alias,
        )
        version, generation, settings = rows[0]
        return version or "", generation or 0, int(settings)

    # --- settings, pins, records --------------------------------------------------------------

    def settings(self, name: str) -> dict[str, Setting]:
        """Return a deployment's settings by key.

        Raises:
            StorageError: LPT-STORE-004, one is not what the ledger says.
        """
        return _aliases.read_settings(self.database, name)

    def set_setting(
        self,
        name: str,
        key: str,
        value: Any,  # noqa: ANN401 - JSON types
        *,
        expect: int | None = None,
        why: str = "",
    ) -> Setting:
        """Change a setting of a deployment; ``None`` takes it away.

        A deployment handle reads ``"open"``: ``threads``, ``device`` and ``options`` of the
        session.

        Args:
            name: Name of the deployment.
            key: Name of the setting.
            value: Plain data.
            expect: Generation that the caller has seen; the present one by default.
            why: Reason, for the ledger.

        Raises:
            DeployError: LPT-STORE-010, someone else changed it meanwhile.
            UsageError: LPT-STORE-006, LPT-STORE-007.
        """
        self._version_ids(_names.check_name(name))
        if expect is None:
            old = self.settings(name).get(key)
            expect = old.generation if old else 0
        with self.database.write(f"the setting {key!r} of {name}") as transaction:
            return _aliases.set_setting(transaction, name, key, value, expect=expect, why=why)

    def pin(self, name: str, version: str, reason: str, *, why: str = "") -> None:
        """Protect a version from collection until :meth:`unpin` with the same reason."""
        found = self.resolve(f"{name}@{version}").version.id
        with self.database.write(f"a pin of {found}") as transaction:
            _require(transaction, name, found)
            _aliases.pin(transaction, name, found, reason, why)

    def unpin(self, name: str, version: str, reason: str, *, why: str = "") -> None:
        """Withdraw a pin; nothing happens if there is none."""
        found = self.resolve(f"{name}@{version}").version.id
        with self.database.write(f"a pin of {found}") as transaction:
            _aliases.unpin(transaction, name, found, reason, why)

    def record(
        self, kind: str, name: str = "", *, why: str = "", details: Mapping[str, Any] | None = None
    ) -> LedgerRow:
        """Write a row of one's own into the ledger: an alarm, a step of a migration.

        Args:
            kind: What happened, in words with dots (``"adjust.change"``).
            name: Deployment that it is about.
            why: Reason.
            details: Plain data; finite numbers only.

        Raises:
            UsageError: LPT-STORE-015, the kind is one of the store's own; LPT-STORE-018, the
                details are not plain data.
        """
        if kind in CHANGES or kind.startswith("gc."):
            raise UsageError(
                "LPT-STORE-015",
                f"Only the store itself writes rows of the kind {kind!r}",
                remedy="Use a kind of your own, such as adjust.change.",
            )
        with self.database.write(f"a ledger row of the kind {kind}") as transaction:
            seq = transaction.append(kind, name, why=why, details=details)
        return self.database.row(seq)

    def ledger(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> tuple[LedgerRow, ...]:
        """Return rows of the ledger, oldest first.

        Args:
            name: Only rows about this deployment.
            kind: Only rows of this kind; ``"adjust."`` means every kind that begins so.
            after: Only rows after this number.
            limit: The last so many.

        Raises:
            StorageError: LPT-STORE-004, a row is not what a ledger row holds; :meth:`verify`
                checks the chain.
        """
        prefix = kind.endswith(".") if kind else False
        rows = self.database.select(
            "SELECT seq, body, hash FROM ledger WHERE seq > ?1 AND (?2 IS NULL OR name = ?2) "
            "AND (?3 IS NULL OR CASE WHEN ?4 THEN substr(kind, 1, length(?3)) = ?3 "
            "ELSE kind = ?3 END) ORDER BY seq DESC LIMIT ?5",
            after,
            name,
            kind,
            prefix,
            -1 if limit is None else limit,
        )
        return tuple(parse_row(*row) for row in reversed(rows))

    # --- upkeep -------------------------------------------------------------------------------

    def verify(self) -> VerifyReport:
        """Check every file, manifest and ledger row; reports all damage, raises for none."""
        return _verify.verify(self)

    def gc(self, *, grace: float = 7 * DAY, keep: int = 5, dry_run: bool = False) -> GcReport:
        """Remove versions and files that nothing leads to any more.

        Kept are: what an alias points to, the *keep* versions that rollbacks of each alias lead
        to, pinned versions, and what was deployed or in use within *grace*. Safe while others
        deploy.

        Args:
            grace: Age in seconds below which nothing is removed.
            keep: Earlier versions to keep per alias.
            dry_run: Only say what would go.

        Raises:
            StorageError: The ledger is damaged; nothing is removed then.
        """
        return _collect.collect(self, grace=grace, keep=keep, dry_run=dry_run, now=time.time())


def _require(transaction: Transaction, name: str, version: str) -> None:
    """Make sure that a version has not been collected meanwhile."""
    if not transaction.execute("SELECT 1 FROM entries WHERE name=? AND version=?", name, version):
        raise DeployError(
            "LPT-STORE-016",
            f"{version} was removed from the store meanwhile",
            remedy="Deploy it again.",
        )


__all__ = ["Store"]
