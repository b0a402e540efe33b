"""Manifests: what a version is, as canonical JSON whose digest names it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.errors import LeptonError, StorageError, UsageError
from lepton_core.files import digest_path
from lepton_core.store import _faults
from lepton_core.store._ledger import canonical
from lepton_core.store._names import check_member, is_digest
from lepton_core.store._types import StoredFile, Version
from lepton_core.types import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA = 1
KIND = "lepton.version"
EXTERNAL = "external_files"
"""Key of a model's metadata: names of further files beside its file."""


def members(model: Model) -> tuple[str, list[tuple[str, Path]]]:
    """Return the files of an artifact.

    Args:
        model: An artifact of one file, one file with others beside it, or a folder.

    Returns:
        Name of the file or folder, and all files as (relative path, place), sorted.

    Raises:
        StorageError: LPT-STORE-012, a name or a link leaves the folder; LPT-STORE-013, its bytes
            are not those of ``model.digest``.
        UsageError: LPT-STORE-017, there is no file.
    """
    place = Path(model.path)
    if place.is_dir():
        found = [(f"{place.name}/{p.relative_to(place).as_posix()}", p) for p in _walk(place)]
    else:
        beside = [str(name) for name in model.metadata.get(EXTERNAL, ())]
        found = [(check_member(n), place.parent / n) for n in dict.fromkeys([place.name, *beside])]
    missing = [str(p) for _, p in found if not p.is_file()]
    if missing or not found:
        raise UsageError(
            "LPT-STORE-017",
            f"There is no artifact at {model.path}",
            cause=f"missing: {', '.join(missing) or 'every file'}",
            remedy="Build it first: `lepton port MODEL --to TARGET`.",
        )
    root = place if place.is_dir() else place.parent
    for name, path in found:
        check_member(name)
        _refuse_links(root, path)
    _refuse_twins(name for name, _ in found)
    _check_digest(model, place, found)
    return place.name, sorted(found)


def _walk(folder: Path) -> list[Path]:
    """Return all files below a folder; does not follow links to folders."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in folders:
            _refuse_links(folder, Path(parent, name))
        found += [Path(parent, name) for name in names]
    return sorted(found)


def _refuse_links(root: Path, path: Path) -> None:
    if path.resolve().is_relative_to(root.resolve()):
        return
    raise StorageError(
        "LPT-STORE-012",
        f"{path} leads out of its folder and is not stored",
        cause=f"it is a link to {path.resolve()}",
        remedy="Put a copy of the file in its place.",
    )


def _refuse_twins(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise StorageError(
                "LPT-STORE-012",
                f"The files {twin!r} and {name!r} differ in case only",
                cause="they are one file on some platforms",
                remedy="Rename one of them.",
            )


def _check_digest(model: Model, place: Path, found: list[tuple[str, Path]]) -> None:
    """Refuse an artifact that changed since it was built.

    The digest of a model with files beside it is made by its plugin's own rule.
    """
    if not model.digest or (len(found) > 1 and not place.is_dir()):
        return
    now = digest_path(place)
    if now != model.digest:
        raise StorageError(
            "LPT-STORE-013",
            f"{place} is not the artifact that was built",
            cause=f"its digest is {now}, it was {model.digest}",
            remedy="Build it again, and deploy what was built.",
        )


def build(
    model: Model,
    root: str,
    *,
    target: str,
    precision: str,
    files: Iterable[StoredFile],
    facts: Mapping[str, Any],
) -> bytes:
    """Return the manifest of a version; the same version has the same bytes.

    Raises:
        UsageError: LPT-STORE-018, metadata or facts are not plain data.
    """
    data = codec.to_data(model)
    del data["path"]
    try:
        encoded = canonical(
            {
                "kind": KIND,
                "schema": SCHEMA,
                "target": target,
                "precision": precision,
                "model": {**data, "root": root},
                "files": [codec.to_data(f) for f in sorted(files, key=lambda f: f.path)],
                "facts": codec.to_data(dict(facts)),
            }
        ).encode()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(
            "LPT-STORE-018",
            "The model's metadata or facts cannot be stored in a manifest",
            cause=str(error),
            remedy="Use JSON types and finite numbers only.",
        ) from error
    return encoded


def version_id(digest: str) -> str:
    """Return the id of the version whose manifest has *digest*."""
    return f"v{digest.removeprefix('sha256:')[:16]}"


def parse(data: bytes, digest: str) -> Version:
    """Return what a manifest says.

    Raises:
        StorageError: LPT-STORE-004, it is none; LPT-STORE-012, a path in it is not safe.
    """
    what = f"manifest {digest}"
    try:
        fields = json.loads(data)
        if fields["kind"] != KIND or fields["schema"] != SCHEMA:
            raise ValueError(f"kind {fields['kind']!r}, schema {fields['schema']!r}")
        plain = dict(fields["model"])
        root = check_member(plain.pop("root"))
        model = codec.from_data({**plain, "path": f"model/{root}"}, Model)
        files = tuple(codec.from_data(f, StoredFile) for f in fields["files"])
        if not all(is_digest(f.digest) for f in files):
            raise ValueError("a file's digest is none")
        for file in files:
            check_member(file.path)
        target, precision = str(fields["target"]), str(fields["precision"])
        facts = dict(fields["facts"])
    except (ValueError, KeyError, TypeError, UsageError) as error:
        reason = error.cause if isinstance(error, LeptonError) else str(error)
        raise _faults.damaged(what, f"{type(error).__name__}: {reason}") from error
    return Version(version_id(digest), digest, model, target, precision, files, facts)


__all__ = ["EXTERNAL", "KIND", "SCHEMA", "build", "members", "parse", "version_id"]
