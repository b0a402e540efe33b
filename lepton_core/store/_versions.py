"""Versions in a store: putting artifacts in, and finding them again, checked."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import StorageError, UsageError
from lepton_core.files import write_atomic
from lepton_core.store import _aliases, _faults, _ledger, _manifest, _names
from lepton_core.store._cas import Cas, sync_folder
from lepton_core.store._database import FILE, Database
from lepton_core.store._failpoints import reach
from lepton_core.store._metrics import MetricsLog
from lepton_core.store._place import (
    MARKER,
    check_marker,
    default_path,
    marker_text,
    user_name,
)
from lepton_core.store._types import AliasState, StoredFile
from lepton_core.store._views import View, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lepton_core.store._database import Transaction
    from lepton_core.store._types import Version
    from lepton_core.types import Model


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference leads to.

    Attributes:
        name: Name of the deployment.
        version: The version, its manifest checked.
        alias: Where the alias points, if the reference was one.
    """

    name: str
    version: Version
    alias: AliasState | None = None


class VersionStore:
    """The part of :class:`.Store` that opens a folder and knows its versions.

    Args:
        path: The folder; ``LEPTON_STORE`` or the user's data folder by default. It is made if it
            is missing or empty.
        create: Whether to make a store that is not there.
        timeout: Seconds to wait for other processes before saying that the store is busy.
        actor: Who is written into the ledger; the user's name by default.

    Raises:
        StorageError: LPT-STORE-001 (the folder holds something else), LPT-STORE-002 (there is
            no store and ``create`` is false), LPT-STORE-003 (damaged), LPT-STORE-014 (written by
            a later version), LPT-IO-001, LPT-IO-002.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        create: bool = True,
        timeout: float = 30.0,
        actor: str | None = None,
    ) -> None:
        self.path = Path(path or default_path()).absolute()
        self.cas = Cas(self.path)
        self.database = Database(self.path, timeout, actor or user_name())
        with _faults.guard(f"the store at {self.path}"):
            if not (self.path / MARKER).is_file():
                self._create(create)
            check_marker(self.path)
        self.metrics = MetricsLog(self.path, timeout)

    def _create(self, create: bool) -> None:
        ours = ("cas", FILE, _ledger.HEAD, f".{MARKER}", f".{_ledger.HEAD}")
        foreign = self.path.exists() and not self.path.is_dir()
        if self.path.is_dir():
            foreign = not all(p.name.startswith(ours) for p in self.path.iterdir())
        if foreign:
            raise StorageError(
                "LPT-STORE-001",
                f"{self.path} is not a store of lepton",
                cause=f"it is a file, or holds other files and no {MARKER}",
                remedy="Choose an empty or new folder with --store or LEPTON_STORE.",
            )
        if not create:
            raise StorageError(
                "LPT-STORE-002",
                f"There is no store at {self.path}",
                remedy="Deploy something there first, or check --store and LEPTON_STORE.",
            )
        with _faults.guard(f"a new store at {self.path}"):
            try:
                self.cas.folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
                raise StorageError(
                    "LPT-STORE-001",
                    f"There can be no store at {self.path}",
                    cause=str(error),
                    remedy="Choose an empty or new folder with --store or LEPTON_STORE.",
                ) from error
            reach("store.folders-made")
            self.database.create()
            write_atomic(self.path / MARKER, marker_text())
            reach("store.marker-written")
            sync_folder(self.path)
            sync_folder(self.path.parent)

    # --- versions -----------------------------------------------------------------------------

    def add(
        self,
        name: str,
        model: Model,
        *,
        target: str,
        precision: str = "",
        passport: Mapping[str, Any] | str | Path | None = None,
        recipe: Iterable[str | Path] = (),
        golden: str | Path | None = None,
        origin: str | Path | None = None,
        facts: Mapping[str, Any] | None = None,
        alias: str | None = None,
        expect: int | None = None,
        why: str = "",
        also: Callable[[Transaction, Version], object] | None = None,
    ) -> Resolved:
        """Store an artifact as a version of *name*, and point an alias at it if one is given.

        The version's id follows from what is stored, so the same artifact gets the same id. All
        of it happens or nothing.

        Args:
            name: Name of the deployment.
            model: The artifact; its files are copied.
            target: Target string it was built for.
            precision: Its precision.
            passport: The passport, as data or as a file.
            recipe: Files of the recipe that made it.
            golden: Folder of golden inputs and outputs.
            origin: Folder that :func:`lepton_core.origins.keep_origin` wrote: what it was
                lowered from. Versions of one origin share its bytes.
            facts: Further plain data.
            alias: Alias to move to the new version.
            expect: Generation of the alias that the caller has seen; the present one by default.
            why: Reason, for the ledger.
            also: Further changes of the same transaction.

        Returns:
            The version, and where the alias points now.

        Raises:
            UsageError: LPT-STORE-006, LPT-STORE-017, LPT-STORE-018.
            DeployError: LPT-STORE-010, the alias moved meanwhile.
            StorageError: LPT-STORE-003 … 005, LPT-STORE-012, LPT-STORE-013, LPT-IO-001,
                LPT-IO-002; the store is as before.
        """
        _names.check_name(name)
        if alias is not None:
            _names.check_alias(alias)
            expect = self._generation(name, alias) if expect is None else expect
        root, model_files = _manifest.members(model)
        parts = [(f"model/{rel}", place) for rel, place in model_files]
        parts += _side_files(recipe, golden, origin)

        def put() -> Version:
            files = [StoredFile(rel, *self.cas.put_file(place)) for rel, place in parts]
            files += self._put_passport(passport)
            data = _manifest.build(
                model, root, target=target, precision=precision, files=files, facts=facts or {}
            )
            digest, _ = self.cas.put_bytes(data)
            return _manifest.parse(data, digest)

        version = put()
        with self.database.write(f"version {version.id} of {name}") as transaction:
            # A collection may have run since the files were put. It runs in transactions, so
            # what is put inside this one stays.
            if not self._holds(version):
                version = put()
            self._insert(transaction, name, version, why)
            moved = None
            if alias is not None:
                moved = self._move(
                    transaction, name, alias, version.id, expect=expect or 0, why=why
                )
            if also is not None:
                also(transaction, version)
        return Resolved(name, version, moved)

    def _holds(self, version: Version) -> bool:
        """Tell whether all files of a version are there, by their sizes."""
        return self.cas.path(version.manifest).is_file() and all(
            self.cas.holds(file.digest, file.size) for file in version.files
        )

    def _put_passport(self, passport: Mapping[str, Any] | str | Path | None) -> list[StoredFile]:
        if passport is None:
            return []
        from lepton_core.passport import dump_passport, load_passport

        data = load_passport(passport) if isinstance(passport, str | Path) else dict(passport)
        digest, size = self.cas.put_bytes(dump_passport(data).encode())
        return [StoredFile("passport/passport.json", digest, size)]

    def _insert(self, transaction: Transaction, name: str, version: Version, why: str) -> None:
        known = transaction.execute("SELECT manifest FROM versions WHERE version=?", version.id)
        if known and known[0][0] != version.manifest:
            raise _faults.damaged(
                f"version {version.id}",
                f"two manifests share it: {known[0][0]}, {version.manifest}",
            )
        details = {"version": version.id, "manifest": version.manifest, "target": version.target}
        seq = transaction.append("version.add", name, why=why, details=details)
        transaction.execute(
            "INSERT OR IGNORE INTO versions(version, manifest) VALUES (?, ?)",
            version.id,
            version.manifest,
        )
        for digest in {f.digest for f in version.files} | {version.manifest}:
            transaction.execute(
                "INSERT OR IGNORE INTO files(digest, version) VALUES (?, ?)", digest, version.id
            )
        transaction.execute(
            "INSERT INTO entries(name, version, seq) VALUES (?, ?, ?) "
            "ON CONFLICT(name, version) DO UPDATE SET seq=excluded.seq",
            name,
            version.id,
            seq,
        )

    def names(self) -> tuple[str, ...]:
        """Return the names of all deployments, sorted."""
        rows = self.database.select("SELECT DISTINCT name FROM entries ORDER BY name")
        return tuple(name for (name,) in rows)

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of a name, newest first, each with its manifest checked.

        Raises:
            UsageError: LPT-STORE-007, there is no such name.
            StorageError: LPT-STORE-004, one is damaged.
        """
        return tuple(self._version(name, version) for version in self._version_ids(name))

    def _version_ids(self, name: str) -> list[str]:
        rows = self.database.select(
            "SELECT version FROM entries WHERE name=? ORDER BY seq DESC", name
        )
        if not rows:
            known = list(self.names())
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            raise _faults.unknown("deployment", name, near, code="LPT-STORE-007", present=known)
        return [version for (version,) in rows]

    def _version(self, name: str, version: str) -> Version:
        """Return a version after checking that the ledger knows this manifest for it."""
        rows = self.database.select(
            "SELECT seq FROM entries WHERE name=? AND version=?", name, version
        )
        if not rows:
            raise _faults.damaged(f"version {version} of {name}", "its entry is missing")
        row = self.database.row(rows[0][0])
        if (row.kind, row.name, row.details.get("version")) != ("version.add", name, version):
            reason = f"ledger row {row.seq} does not say so"
            raise _faults.damaged(f"version {version} of {name}", reason)
        return self._read_version(row.details["manifest"], version)

    def _read_version(self, manifest: str, version: str) -> Version:
        found = _manifest.parse(self.cas.read(manifest, f"the manifest of {version}"), manifest)
        if found.id != version:
            raise _faults.damaged(f"version {version}", f"its manifest is that of {found.id}")
        return found

    def resolve(self, reference: str) -> Resolved:
        """Return what ``NAME``, ``NAME@ALIAS`` or ``NAME@VERSION`` leads to.

        A bare name means ``NAME@production``; a version may be cut to ``v`` and 4 digits.

        Raises:
            UsageError: LPT-STORE-006 … 009, there is no such name, version or alias.
            StorageError: LPT-STORE-003, LPT-STORE-004, something on the way is damaged.
        """
        name, rest = _names.split_reference(reference)
        with _faults.guard("a look into the ledger"):
            self.database.check_head()
        versions = self._version_ids(name)
        if _names.is_version(rest):
            return Resolved(name, self._version(name, _one_of(versions, rest, name)))
        state = _aliases.read(self.database, name, rest)
        if state is None:
            known = [a.alias for a in self.aliases(name)]
            near = difflib.get_close_matches(rest, known, n=2, cutoff=0.5)
            raise _faults.unknown("alias", reference, near, code="LPT-STORE-009", present=known)
        return Resolved(name, self._version(name, state.version), state)

    def view(self, version: Version, *, origin: bool = False) -> View:
        """Lay out a version's files for a runtime, after checking every byte; close it after use.

        Args:
            version: The version.
            origin: Whether to lay out what it was lowered from, too, for
                :func:`lepton_core.origins.find_origin`.

        Raises:
            StorageError: LPT-STORE-004, a file is missing or has another digest.
        """
        return make_view(self.path, self.cas, version, origin=origin)

    def passport(self, version: Version) -> dict[str, Any] | None:
        """Return the passport of a version, if it has one.

        Raises:
            StorageError: LPT-STORE-004, it is damaged.
        """
        for file in version.role("passport"):
            what = f"the passport of {version.id}"
            data: dict[str, Any] = json.loads(self.cas.read(file.digest, what))
            return data
        return None

    def aliases(self, name: str | None = None) -> tuple[AliasState, ...]:
        """Return where aliases point, of one name or of all."""
        rows = self.database.select(
            "SELECT name, alias FROM aliases WHERE name=? OR ? IS NULL ORDER BY name, alias",
            name,
            name,
        )
        states = (_aliases.read(self.database, *row) for row in rows)
        return tuple(state for state in states if state is not None)

    def _generation(self, name: str, alias: str) -> int:
        state = _aliases.read(self.database, name, alias)
        return state.generation if state else 0

    def _move(
        self,
        transaction: Transaction,
        name: str,
        alias: str,
        version: str,
        *,
        expect: int,
        why: str,
    ) -> AliasState:
        now = _aliases.present(transaction, name, alias)
        if now is not None and now.version == version and now.generation == expect:
            return now
        return _aliases.move(
            transaction,
            name,
            alias,
            version,
            expect=expect,
            back=now.seq if now else None,
            action="promote",
            why=why,
        )

    def close(self) -> None:
        """Close the databases; calling it again does nothing."""
        self.database.close()
        self.metrics.close()


def _one_of(versions: list[str], beginning: str, name: str) -> str:
    found = [version for version in versions if version.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            "LPT-STORE-008",
            f"{len(found)} versions of {name} begin with {beginning!r}",
            cause=", ".join(found),
            remedy="Write more digits.",
        )
    raise _faults.unknown("version", beginning, [], code="LPT-STORE-008", present=versions)


def _side_files(
    recipe: Iterable[str | Path], golden: str | Path | None, origin: str | Path | None
) -> list[tuple[str, Path]]:
    found = [(f"recipe/{Path(p).name}", Path(p)) for p in recipe]
    for role, place in (("golden", golden), ("origin", origin)):
        if place is not None:
            folder = Path(place)
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            found += [(f"{role}/{p.relative_to(folder).as_posix()}", p) for p in files]
    missing = [str(place) for _, place in found if not place.is_file()]
    if missing:
        raise UsageError(
            "LPT-STORE-017",
            f"There is no file {', '.join(missing)}",
            remedy="Check the path of the recipe.",
        )
    return found


__all__ = ["Resolved", "VersionStore"]
