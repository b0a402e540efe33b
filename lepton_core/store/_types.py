"""What the store tells: versions, aliases, ledger rows, damage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Model


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a version.

    Attributes:
        path: Relative path; its first part is the role (``"model/net.onnx"``).
        digest: ``"sha256:<hex>"``.
        size: Bytes.
    """

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version: what its manifest says.

    Attributes:
        id: ``"v"`` and the first 16 hex digits of the manifest's digest.
        manifest: Digest of the manifest.
        model: The artifact; its ``path`` is relative to the version's files.
        target: Target string it was built for.
        precision: Precision, ``""`` if not known.
        files: All files, by falling importance of their role.
        facts: Further plain data that was stored with it.
    """

    id: str
    manifest: str
    model: Model
    target: str
    precision: str
    files: tuple[StoredFile, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's files."""
        return sum(f.size for f in self.files if f.path.startswith("model/"))

    def role(self, name: str) -> tuple[StoredFile, ...]:
        """Return the files of one role: model, passport, recipe, golden or origin."""
        return tuple(f for f in self.files if f.path.partition("/")[0] == name)


@dataclass(frozen=True, slots=True)
class AliasState:
    """Where an alias points.

    Attributes:
        name: Name of the deployment.
        alias: The alias.
        version: The version it points to.
        generation: Number of times it was moved; the token of compare-and-swap.
        seq: Ledger row that moved it there.
    """

    name: str
    alias: str
    version: str
    generation: int
    seq: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a deployment, moved by compare-and-swap like an alias."""

    name: str
    key: str
    value: Any
    generation: int
    seq: int


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One row of the ledger.

    Attributes:
        seq: Number of the row, from 1.
        time: ISO 8601, UTC.
        kind: What happened (``"alias.set"``).
        name: Name it is about, ``""`` for the store itself.
        actor: Who did it.
        why: Reason given.
        details: Plain data.
        hash: SHA-256 over the previous row's hash and this row's body.
    """

    seq: int
    time: str
    kind: str
    name: str
    actor: str
    why: str
    details: Mapping[str, Any]
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something stored that is not what was stored.

    Attributes:
        what: Kind of thing: ``file``, ``manifest``, ``ledger``, ``database``, ``head``,
            ``marker``, ``metrics``.
        place: Which one.
        reason: How it is known.
    """

    what: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What :meth:`.Store.verify` found.

    Attributes:
        damage: All damage; empty means that everything is as it was stored.
        versions: Versions checked.
        files: Files read.
        rows: Ledger rows checked.
        leftovers: Temporary files of interrupted writes; harmless, :meth:`.Store.gc` removes them.
    """

    damage: tuple[Damage, ...]
    versions: int
    files: int
    rows: int
    leftovers: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no damage."""
        return not self.damage

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class GcReport:
    """What :meth:`.Store.gc` removed, or would remove.

    Attributes:
        versions: Versions, by id.
        files: Number of files.
        bytes: Their size.
        leftovers: Temporary files and views of processes that ended.
        dry_run: Whether nothing was removed.
    """

    versions: tuple[str, ...]
    files: int
    bytes: int
    leftovers: int
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


__all__ = [
    "AliasState",
    "Damage",
    "GcReport",
    "LedgerRow",
    "Setting",
    "StoredFile",
    "VerifyReport",
    "Version",
]
