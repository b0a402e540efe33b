"""Origins: the model that an artifact was lowered from, kept so that it can be lowered again.

An artifact cannot be turned back into the graph it came from, and migrating or compressing it
needs that graph. So whatever lowers keeps it: a folder with the model under its own names, and
``origin.json``, which says what it is and what bytes its files have:

.. code-block:: text

    lepton convert, optimize    OUT/origin/
    lepton port                 OUT/pivot/, once for all variants
    lepton deploy               the version's files of the role origin, once in a store

An origin is used only if it is a parent in the artifact's lineage, and its bytes are the recorded
ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import LeptonError, StorageError, UsageError
from lepton_core.files import digest_path, disk_errors, write_atomic

if TYPE_CHECKING:
    from lepton_core.types import Model

INDEX = "origin.json"
ORIGIN = "origin"
PIVOT = "pivot"
LOCATIONS = "locations"
"""Metadata key of a pivot: the user's source line (``"net.py:31 in forward"``) by node name."""
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class _File:
    """One file of an origin: its path below the folder, digest and size in bytes."""

    path: str
    digest: str
    size: int


def can_be_origin(model: Model) -> bool:
    """Tell whether a model can be kept: one file of data with a digest, and its own side files.

    Code (``net.py:net``) and directories of a hub are sources; they stay where the user has them.
    """
    return bool(model.digest) and model.entry is None and Path(model.path).is_file()


def keep_origin(pivot: Model, folder: Path) -> Model:
    """Copy the model that something was lowered from into a folder.

    Args:
        pivot: The model, usually of format ``pivot``, with its digest.
        folder: Where; it is made if it is missing. An origin that stands there is replaced.

    Returns:
        The model at its new place.

    Raises:
        UsageError: LPT-ORIG-002, it cannot be kept (:func:`can_be_origin`).
        StorageError: LPT-IO-001, LPT-IO-002.
    """
    from lepton_core import codec
    from lepton_core.artifacts import artifact_files, copy_artifact

    if not can_be_origin(pivot):
        raise UsageError(
            "LPT-ORIG-002",
            f"{pivot.path} cannot be kept as an origin",
            cause="it is no file that has been read: an origin is a model's data, not its code",
            remedy="Convert it to the pivot first: `lepton convert MODEL --to TARGET "
            "--format pivot`.",
        )
    with disk_errors(f"the origin in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        kept = copy_artifact(pivot, folder)
        files = [
            _File(path.relative_to(folder).as_posix(), digest_path(path), path.stat().st_size)
            for path in sorted(artifact_files(kept))
        ]
        model = {**codec.to_data(pivot), "path": Path(kept.path).name}
        data = {"schema": _SCHEMA, "model": model, "files": codec.to_data(files)}
        write_atomic(folder / INDEX, json.dumps(data, indent=1, sort_keys=True) + "\n")
    return kept


def read_origin(folder: Path) -> Model | None:
    """Return the origin in a folder after comparing every byte, ``None`` if there is none.

    Raises:
        StorageError: LPT-ORIG-001, it is damaged.
    """
    place = folder / INDEX
    if not place.is_file():
        return None
    model, files = _read_index(place)
    for file in files:
        path = folder / file.path
        found = digest_path(path) if path.is_file() else "nothing"
        if found != file.digest:
            raise _damaged(path, f"recorded {file.digest}, found {found}")
    if len(files) == 1 and files[0].digest != model.digest:
        raise _damaged(place, f"it names {model.digest}, its file is {files[0].digest}")
    return model


def find_origin(artifact: Model) -> Model | None:
    """Return the model that an artifact was lowered from, if it was kept.

    Looked for: ``origin/`` beside the artifact or beside its folder (a version in a store), then
    ``pivot/`` at the root of the port result that holds the artifact. What is found counts only
    if it is a parent in the artifact's lineage; an artifact without lineage takes what stands
    beside it.

    Raises:
        StorageError: LPT-ORIG-001, the origin is there and damaged.
    """
    parents = [step.parent for step in artifact.lineage if step.parent]
    for folder in _places(Path(artifact.path)):
        place = folder / INDEX
        if not place.is_file():
            continue
        if parents and _read_index(place)[0].digest not in parents:
            continue
        # A target may take the pivot byte by byte; what counts is that it is another format.
        found = read_origin(folder)
        if found is not None and found.format != artifact.format:
            return found
    return None


def _places(path: Path) -> list[Path]:
    """Return where an artifact's origin may stand, nearest first."""
    from lepton_core.staging import MARKER

    near = [parent / ORIGIN for parent in list(path.parents)[:2]]
    # A port result is OUT/TARGET/PRECISION/artifact.
    roots = [parent for parent in list(path.parents)[:4] if (parent / MARKER).is_file()]
    return [*near, *(root / PIVOT for root in roots)]


def _read_index(place: Path) -> tuple[Model, tuple[_File, ...]]:
    from lepton_core import codec
    from lepton_core.store._names import check_member
    from lepton_core.types import Model

    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']!r}; this version knows {_SCHEMA}")
        files = tuple(codec.from_data(file, _File) for file in data["files"])
        names = [check_member(file.path) for file in files]
        model = codec.from_data(data["model"], Model)
        if model.path not in names:
            raise ValueError(f"{model.path!r} is not among its files")
    except (OSError, ValueError, KeyError, TypeError, LeptonError) as error:
        reason = error.cause if isinstance(error, LeptonError) else None
        raise _damaged(place, reason or f"{type(error).__name__}: {error}") from error
    return model.evolve(path=str((place.parent / model.path).absolute())), files


def _damaged(place: Path, reason: str) -> StorageError:
    return StorageError(
        "LPT-ORIG-001",
        f"{place} is not the origin that was kept; it is not used",
        cause=reason,
        remedy="Build the artifact again, or restore the folder from a copy.",
        details={"place": str(place), "reason": reason},
    )


__all__ = [
    "INDEX",
    "LOCATIONS",
    "ORIGIN",
    "PIVOT",
    "can_be_origin",
    "find_origin",
    "keep_origin",
    "read_origin",
]
