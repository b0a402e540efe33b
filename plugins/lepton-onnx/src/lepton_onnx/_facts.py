"""Digests of models that may stand in several files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import SourceError
from lepton_core.files import digest_files, digest_path
from lepton_onnx._external import verify_external
from lepton_onnx._load import read
from lepton_onnx._strip import EXTERNAL_KEY

if TYPE_CHECKING:
    from onnx import ModelProto


def external_files(path: str | Path) -> tuple[Path, ...]:
    """Return the data files of a model, sorted; they belong beside it.

    Raises:
        SourceError: The model cannot be read, or its data is missing or out of place.
    """
    return verify_external(read(path), Path(path))


def digest(path: str | Path, *, verify: bool = False, proto: ModelProto | None = None) -> str:
    """Return ``"sha256:<hex>"`` over everything that makes up a model.

    A model without external data is digested as the file that it is. One that we wrote names its
    data file's SHA-256 in its metadata, so its own digest covers both. For any other one the
    digest is made over the digests of all its files.

    Args:
        path: An ``.onnx`` file.
        verify: Read the data file of a model that we wrote and compare its SHA-256.
        proto: Its structure, if it has been read already.

    Raises:
        SourceError: LPT-SRC-213 (the data file is not the one that belongs to the model), or the
            model cannot be read.
    """
    path = Path(path)
    proto = read(path) if proto is None else proto
    files = verify_external(proto, path)
    own = digest_path(path)
    if not files:
        return own
    recorded = next((p.value for p in proto.metadata_props if p.key == EXTERNAL_KEY), "")
    if not recorded:
        return digest_files(path, files)
    if verify:
        _compare(path, files[0], recorded)
    return own


def _compare(path: Path, file: Path, recorded: str) -> None:
    wanted = recorded.rsplit(" ", 1)[-1]
    with file.open("rb") as stream:
        found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if found != wanted:
        raise SourceError(
            "LPT-SRC-213",
            f"{file} is not the data file that belongs to {path.name}",
            cause=f"Its digest is {found}; the model names {wanted}.",
            remedy="Copy both files again from the same place, or convert the model again.",
        )
