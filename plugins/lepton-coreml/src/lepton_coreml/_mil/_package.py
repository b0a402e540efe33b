"""The folder of a model (``.mlpackage``): what it holds, and refusals of what is none.

``Manifest.json`` names the parts by identifiers; the part of the author ``com.apple.CoreML`` named
``model.mlmodel`` is the root, ``weights`` is the folder of weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SessionError
from lepton_coreml._mil._blob import BlobFile
from lepton_coreml._mil._messages import messages
from lepton_coreml._mil._program import Blob, Program, TypeSpec, read_program

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "Manifest.json"
NEWEST = 9
"""Version of the file format of iOS 18, the newest that is read."""

_PREFIX = "@model_path/"
_AGAIN = "Convert the model again: lepton convert MODEL --to coreml"


@dataclass
class Package:
    """A package on disk.

    Attributes:
        path: The folder.
        model_file: The file of the program.
    """

    path: Path
    model_file: Path
    _files: dict[str, BlobFile] = field(default_factory=dict)

    def message(self) -> Any:  # noqa: ANN401 - protobuf
        """Return the message ``Model``.

        Raises:
            SessionError: LPT-RUN-502 (damaged), 503 (newer), 501 (no ML Program).
        """
        model = messages()["Model"]()
        try:
            model.ParseFromString(self.model_file.read_bytes())
        except Exception as error:
            raise damaged(self.path, f"{self.model_file.name}: {error}") from error
        if model.specificationVersion > NEWEST:
            raise SessionError(
                "LPT-RUN-503",
                f"{self.path} is of a newer form of Core ML than this plugin reads",
                cause=f"It is of version {model.specificationVersion}; versions up to {NEWEST} "
                "(iOS 18) are read.",
                remedy="Upgrade lepton-coreml, or convert for iOS 18 or 17.",
            )
        if not model.HasField("mlProgram"):
            raise not_a_program(
                self.path, f"version {model.specificationVersion} without an ML Program"
            )
        return model

    def program(self) -> Program:
        """Return the program with its constants.

        Raises:
            SessionError: As :meth:`message`, and 504 (a file outside of the package).
        """
        message = self.message()
        try:
            return read_program(message, self._blob)
        except (ValueError, KeyError, OSError, IndexError) as error:
            raise damaged(self.path, f"{type(error).__name__}: {error}") from error

    def blob_path(self, name: str) -> Path:
        """Return the file that a program calls ``@model_path/…``.

        Raises:
            SessionError: LPT-RUN-504, it lies outside of the package.
        """
        if not name.startswith(_PREFIX):
            raise _escape(self.path, name)
        return _inside(self.path, self.model_file.parent, name.removeprefix(_PREFIX))

    def _blob(self, blob: Blob, spec: TypeSpec) -> NDArray[Any]:
        if blob.file not in self._files:
            self._files[blob.file] = BlobFile(self.blob_path(blob.file))
        shape = tuple(0 if d is None else d for d in spec.shape)
        return self._files[blob.file].read(blob.offset, spec.dtype, shape)

    def weight_files(self) -> list[Path]:
        """Return the files beside the program's, sorted."""
        return sorted(p for p in self.path.rglob("*") if p.is_file() and p.suffix == ".bin")


def open_package(path: Path) -> Package:
    """Find the parts of a package, and refuse what is none.

    Raises:
        SessionError: LPT-RUN-501 (no package), 502 (damaged), 504 (a path leaves it).
    """
    if path.is_file():
        what = "a classic .mlmodel file" if path.suffix == ".mlmodel" else "a file"
        raise not_a_program(path, f"it is {what}; an ML Program is a folder (.mlpackage)")
    if not (path / MANIFEST).is_file():
        raise not_a_program(path, f"it has no {MANIFEST}")
    for member in path.rglob("*"):
        if member.is_symlink():
            raise _escape(path, str(member.relative_to(path)))
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        others = [str(entry["path"]) for entry in manifest["itemInfoEntries"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"{MANIFEST}: {type(error).__name__}: {error}") from error
    for other in others:
        place = _inside(path, path / "Data", other)
        if not place.exists():
            raise damaged(path, f"{MANIFEST} names {other}, which is not there")
    return Package(path, _inside(path, path / "Data", str(root)))


def _inside(package: Path, base: Path, name: str) -> Path:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not parts.parts:
        raise _escape(package, name)
    return base.joinpath(*parts.parts)


def _escape(package: Path, name: str) -> SessionError:
    return SessionError(
        "LPT-RUN-504",
        f"{package} names a file outside of itself and is not opened",
        cause=f"It names {name!r}.",
        remedy="Do not use this package; take it from its maker again.",
    )


def damaged(path: Path, cause: str) -> SessionError:
    """Return the error for a package that cannot be read."""
    return SessionError(
        "LPT-RUN-502", f"{path} cannot be read as an ML Program", cause=cause, remedy=_AGAIN
    )


def not_a_program(path: Path, cause: str) -> SessionError:
    """Return the error for something that is no ML Program."""
    return SessionError(
        "LPT-RUN-501",
        f"{path} is not an ML Program",
        cause=f"{cause[0].upper()}{cause[1:]}.",
        remedy=f"Classic models are not read. {_AGAIN}",
    )


__all__ = ["MANIFEST", "NEWEST", "Package", "damaged", "not_a_program", "open_package"]
