"""Checking a whole store: every file, manifest, ledger row and table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.errors import LeptonError
from lepton_core.store import _collect, _faults, _ledger, _manifest, _place, _seal
from lepton_core.store._cas import TEMPORARY, digest_file
from lepton_core.store._database import FILE, TABLES, stamp
from lepton_core.store._names import is_digest
from lepton_core.store._types import AliasState, Damage, LedgerRow, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_core.store._ledger import State
    from lepton_core.store._store import Store
    from lepton_core.store._types import Version


def verify(store: Store) -> VerifyReport:
    """Do what :meth:`.Store.verify` says."""
    found: list[Damage] = []
    check = _Checker(store, found)
    check.run("marker", _place.MARKER, lambda: _place.check_marker(store.path))
    check.run("database", "ledger.db", check.seal)
    check.run("database", "ledger.db", check.database)
    check.run("head", _ledger.HEAD, check.head)
    check.run("ledger", "ledger.db", check.ledger)
    check.run("database", "ledger.db", check.tables)
    check.run("manifest", "versions", check.versions)
    check.run("file", "cas", check.files)
    for reason in store.metrics.damage():
        found.append(Damage("metrics", "metrics.db", reason))
    return VerifyReport(
        tuple(dict.fromkeys(found)),
        len(check.seen_versions),
        check.seen_files,
        len(check.rows),
        len(_collect.leftovers(store.path)),
    )


class _Checker:
    """The steps of a check; what they find goes on one list."""

    def __init__(self, store: Store, found: list[Damage]) -> None:
        self.store = store
        self.found = found
        self.rows: list[LedgerRow] = []
        self.state: State | None = None
        self.seen_versions: dict[str, Version] = {}
        self.seen_files = 0

    def run(self, what: str, place: str, step: Callable[[], object]) -> None:
        """Run one step; what it raises is damage."""
        try:
            with _faults.guard("a look into the store"):
                step()
        except LeptonError as error:
            self.found.append(Damage(what, place, error.cause or error.message))
        except Exception as error:  # a damaged database may answer with anything
            self.found.append(Damage(what, place, f"{type(error).__name__}: {error}"))

    def report(self, what: str, place: str, reason: str) -> None:
        """Note damage."""
        self.found.append(Damage(what, place, reason))

    def _query(self, sql: str) -> list[Any]:
        return self.store.database.select(sql)

    # --- steps --------------------------------------------------------------------------------

    def seal(self) -> None:
        """Check every byte of the database at rest, before a connection may change any."""
        broken = _seal.check(self.store.path / FILE)
        if broken is None:
            return
        self.report("database", "ledger.db", broken.reason)
        if broken.stamp and broken.stamp != stamp(self.store.database.connection):
            self.found.pop()  # a seal from before the last change, back after a power cut

    def database(self) -> None:
        """Check pages, indexes, types and the text of the tables."""
        for (text,) in self._query("PRAGMA integrity_check"):
            if text != "ok":
                self.report("database", "ledger.db", text)
        there = self._query("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        expected = {(sql.split()[1].lower(), name, sql) for name, sql in TABLES.items()}
        if set(there) != expected:
            self.report("database", "ledger.db", "its tables are not those that were made")

    def head(self) -> None:
        """Check that no committed row is missing."""
        self.store.database.check_head()

    def ledger(self) -> None:
        """Check the chain of hashes and that each column repeats its row."""
        previous = _ledger.GENESIS
        rows = self._query("SELECT seq, kind, name, hash, body FROM ledger ORDER BY seq")
        for number, (seq, kind, name, stored, body) in enumerate(rows, 1):
            place = f"ledger row {seq}"
            if seq != number:
                self.report("ledger", place, f"row {number} is missing")
                return
            if _ledger.row_hash(previous, body) != stored:
                self.report("ledger", place, "its hash does not fit; from here on nothing is sure")
                return
            row = _ledger.parse_row(seq, body, stored)
            if (row.kind, row.name) != (kind, name):
                self.report("ledger", place, "its columns do not repeat what it says")
            self.rows.append(row)
            previous = stored
        if not rows:
            self.report("ledger", "ledger.db", "it is empty")
        self.state = _ledger.replay(self.rows)

    def tables(self) -> None:
        """Check that the tables say what the ledger adds up to."""
        if self.state is None:
            return
        state = self.state
        self._compare("versions", dict(self._query("SELECT version, manifest FROM versions")))
        entries = {(n, v): s for n, v, s in self._query("SELECT name, version, seq FROM entries")}
        self._compare("entries", entries)
        aliases = [
            AliasState(*row)
            for row in self._query("SELECT name, alias, version, generation, seq FROM aliases")
        ]
        self._compare("aliases", {(a.name, a.alias): a for a in aliases})
        pins = {(v, r): s for v, r, s in self._query("SELECT version, reason, seq FROM pins")}
        self._compare("pins", pins)
        settings = {
            (n, k): (value, generation, seq)
            for n, k, value, generation, seq in self._query(
                "SELECT name, key, value, generation, seq FROM settings"
            )
        }
        self._compare("settings", settings)
        for name, alias in state.aliases:
            if (name, state.aliases[name, alias].version) not in state.entries:
                self.report("ledger", f"{name}@{alias}", "it points to a version that is not there")

    def _compare(self, table: str, there: dict[Any, Any]) -> None:
        should = getattr(self.state, table)
        for key in sorted({*there, *should}, key=str):
            if there.get(key) != should.get(key):
                place = key if isinstance(key, str) else "@".join(key)
                reason = f"the table {table} says {there.get(key)}, the ledger {should.get(key)}"
                self.report("database", place, reason)

    def versions(self) -> None:
        """Check every manifest, and that the files that it names are written down."""
        known: dict[str, str] = dict(self._query("SELECT version, manifest FROM versions"))
        if self.state is not None:
            known = self.state.versions
        references = set(self._query("SELECT digest, version FROM files"))
        wanted = set()
        for version, manifest in known.items():
            try:
                found = _manifest.parse(
                    self.store.cas.read(manifest, f"the manifest of {version}"), manifest
                )
            except LeptonError as error:
                self.report("manifest", version, error.cause or error.message)
                continue
            self.seen_versions[version] = found
            wanted |= {(f.digest, version) for f in found.files} | {(manifest, version)}
            for file in found.files:
                if not self.store.cas.path(file.digest).is_file():
                    self.report("file", file.digest, f"{file.path} of {version} is missing")
        broken = known.keys() - self.seen_versions.keys()
        for digest, version in sorted(references ^ wanted):
            if version not in broken:
                self.report("database", digest, f"the files of {version} are not those it names")

    def files(self) -> None:
        """Read every stored file."""
        users = {
            file.digest: f"{file.path} of {version.id}"
            for version in self.seen_versions.values()
            for file in version.files
        }
        for path in self.store.cas.files():
            if path.name.startswith(TEMPORARY):
                continue
            self.seen_files += 1
            digest = f"sha256:{path.name}"
            if not is_digest(digest) or path.parent.name != path.name[:2]:
                self.report("file", str(path.relative_to(self.store.path)), "it is not ours")
                continue
            found = digest_file(path)
            if found != digest:
                what = users.get(digest, "a file")
                self.report("file", digest, f"{what} has the digest {found}")


__all__ = ["verify"]
