"""Views: a version's files under their own names, checked, for a runtime to open.

Each view is private to the one who asked for it and goes when it is closed. Files are hard links
where the file system has them, else copies; every byte is read and compared with its digest
before the view is handed out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.origins import ORIGIN
from lepton_core.store import _faults
from lepton_core.store._cas import Cas, digest_file

if TYPE_CHECKING:
    from lepton_core.store._types import Version
    from lepton_core.types import Model

FOLDER = "views"
_TOUCH_AFTER = 600.0


class View:
    """The files of one version, laid out as they were deployed.

    Attributes:
        version: The version.
        folder: Private folder; files lie under ``model/``, ``passport/``, ``recipe/``,
            ``golden/``, ``origin/``.
        model: The artifact with its absolute path.
        workdir: Empty folder for caches of whoever opens the model.
    """

    def __init__(self, version: Version, folder: Path) -> None:
        self.version = version
        self.folder = folder
        self.model: Model = version.model.evolve(path=str(folder / version.model.path))
        self.workdir = folder / "work"
        self._touched = time.monotonic()

    def touch(self) -> None:
        """Tell collections that the view is in use; cheap, call it as often as you like."""
        if time.monotonic() - self._touched > _TOUCH_AFTER:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.folder)

    def close(self) -> None:
        """Remove the folder; calling it again does nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


def make_view(root: Path, cas: Cas, version: Version, *, origin: bool = False) -> View:
    """Lay out and check the files of a version.

    Args:
        root: Folder of the store.
        cas: Its files.
        version: The version.
        origin: Whether what it was lowered from is laid out too; a runtime does not need it.

    Raises:
        StorageError: LPT-STORE-004, a file is missing or has another digest.
    """
    with _faults.guard(f"a view of {version.id}"):
        (root / FOLDER).mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=root / FOLDER, prefix=f"{version.id}-"))
        try:
            for file in version.files:
                if file.path.startswith(f"{ORIGIN}/") and not origin:
                    continue
                place = folder / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                what = f"{file.path} of {version.id}"
                _link(cas.path(file.digest), place, what)
                found = digest_file(place)
                if found != file.digest:
                    reason = f"digest {found} instead of {file.digest}"
                    raise _faults.damaged(what, reason, version=version.id, path=file.path)
            (folder / "work").mkdir()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return View(version, folder)


def _link(source: Path, place: Path, what: str) -> None:
    try:
        os.link(source, place)
    except FileNotFoundError as error:
        raise _faults.damaged(what, f"its file {source.name} is missing") from error
    except OSError:  # no hard links here, or too many
        shutil.copyfile(source, place)


__all__ = ["FOLDER", "View", "make_view"]
