"""The files of a model on disk: the main one and those that belong to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SessionError
from lepton_core.files import digest_files, digest_path, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Model

EXTERNAL_FILES = "external_files"
"""Metadata key: names of files beside the main one that belong to it (external weights)."""


def artifact_files(model: Model) -> tuple[Path, ...]:
    """Return all files of an artifact, the main one first; a directory counts whole."""
    main = Path(model.path)
    if main.is_dir():
        return tuple(sorted(p for p in main.rglob("*") if p.is_file()))
    beside = (main.parent / name for name in model.metadata.get(EXTERNAL_FILES, ()))
    return (main, *(p for p in beside if p.is_file() and p != main))


def artifact_size(model: Model) -> int:
    """Return the bytes of an artifact, all its files together."""
    return sum(p.stat().st_size for p in artifact_files(model))


def verify_artifact(model: Model) -> None:
    """Make sure that an artifact is still the one that its digest was taken of.

    A model without a digest (not read yet), or without a file of its own, is not judged. The
    digest is that of its main file, which then names those of the files beside it, or one over
    all of them (:func:`~lepton_core.files.digest_files`).

    Raises:
        SessionError: The file is gone or its bytes are not those of the digest.
    """
    path = Path(model.path)
    if not model.digest or not path.is_absolute():
        return
    found = digest_path(path) if path.exists() else "nothing"
    if found != model.digest and (beside := artifact_files(model)[1:]):
        found = digest_files(path, beside)
    if found != model.digest:
        raise SessionError(
            "LPT-RUN-003",
            f"{path} is not the artifact that was recorded; it is not opened",
            cause=f"recorded {model.digest}, found {found}",
            remedy="Take it from a copy that is whole, or build it again with `lepton port`.",
            details={"recorded": model.digest, "found": found},
        )


def write_card(
    folder: Path,
    model: Model,
    *,
    kind: str,
    target: str,
    precision: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write beside an artifact what it is: the model with its signature, metadata and lineage.

    Args:
        folder: Where the artifact stands.
        model: The artifact, below *folder*.
        kind: What made it (``"convert"``, ``"variant"``).
        target: Target string.
        precision: Precision.
        more: What else to write, plain data; readers pass over what they do not know.

    Raises:
        StorageError: LPT-IO-001, LPT-IO-002.
    """
    import json

    from lepton_core.codec import to_data
    from lepton_core.staging import MARKER

    inside = Path(model.path).relative_to(folder).as_posix()
    data = {**to_data(model), "path": inside}
    card = {"schema": 1, "kind": kind, "target": target, "precision": precision, "model": data}
    card = {**to_data(dict(more or {})), **card}
    write_atomic(folder / MARKER, json.dumps(card, indent=2) + "\n")


def copy_artifact(model: Model, folder: Path) -> Model:
    """Copy an artifact into *folder* under its own names and return it at the new place."""
    main = Path(model.path)
    for path in artifact_files(model):
        place = folder / path.relative_to(main.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return model.evolve(path=str(folder / main.name))


__all__ = [
    "EXTERNAL_FILES",
    "artifact_files",
    "artifact_size",
    "copy_artifact",
    "verify_artifact",
    "write_card",
]
