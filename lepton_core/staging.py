"""Results that appear whole or not at all: a staging directory beside the final place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import StorageError
from lepton_core.files import disk_errors, is_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "lepton.json"
"""A directory that holds this file was written by lepton and may be replaced by it."""

_TRIES = 100
_LOOKS = 5
_RACES = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""What a rename says where another command was faster."""


def check_replaceable(out: Path, *, force: bool = False) -> None:
    """Refuse to overwrite what lepton did not write, before any work starts.

    Raises:
        StorageError: The place holds something else, or cannot be written.
    """
    if not force and _is_foreign(out):
        raise StorageError(
            "LPT-IO-003",
            f"{out} exists and was not written by lepton",
            remedy="Choose another --out, or add --force to replace what is there.",
        )
    if not _may_write(out):
        raise StorageError(
            "LPT-IO-002",
            f"No permission to write {out}",
            remedy="Choose a place you may write to, with --out.",
        )


def _is_foreign(out: Path) -> bool:
    """Tell whether something stands at a place that is neither empty nor lepton's.

    Another command may be taking its earlier result away just now; a moment later it is whole.
    """
    for _ in range(_LOOKS):
        try:
            found = {path.name for path in out.iterdir()}
        except FileNotFoundError:  # nothing, or a link that leads nowhere
            if not os.path.lexists(out):
                return False
        except OSError:  # no folder
            return True
        else:
            if not found or MARKER in found:
                return False
        time.sleep(0.01)
    return True


def _may_write(out: Path) -> bool:
    """Tell whether the nearest folder that is there, the place itself included, may be written."""
    for _ in range(_LOOKS):  # what another command takes away just now says no, too
        nearest = next((p for p in (out, *out.absolute().parents) if p.is_dir()), out)
        if os.access(nearest, os.W_OK):
            return True
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def staged(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a directory that becomes *out* when the block ends well, and vanishes otherwise.

    Args:
        out: The final directory; an earlier result of lepton there is replaced.
        force: Replace whatever is there.

    Raises:
        StorageError: The place holds something else, or the disk is full.
    """
    out = out.absolute()
    check_replaceable(out, force=force)
    made = [parent for parent in out.parents if not parent.exists()]
    with disk_errors(str(out)):
        stage = _new_stage(out)
        try:
            yield stage
            _replace(stage, out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            if not out.exists():
                _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for a result that did not come, innermost first."""
    with contextlib.suppress(OSError):  # another result stands there by now
        for folder in folders:
            folder.rmdir()


def _new_stage(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
    except OSError as error:
        if is_disk_error(error):
            raise
        raise StorageError(
            "LPT-IO-004",
            f"{out} cannot be made",
            cause=str(error),
            remedy="Choose a place on an ordinary file system, with --out.",
        ) from error
    stage.chmod(0o755)
    return stage


def _replace(stage: Path, out: Path) -> None:
    """Rename *stage* to *out*, whatever other commands put there meanwhile."""
    for _ in range(_TRIES):
        try:
            _swap(stage, out)
        except OSError as error:
            if error.errno not in _RACES or not stage.exists():
                raise
        else:
            return
    raise StorageError(
        "LPT-IO-004",
        f"{out} cannot be made",
        cause="other commands put their results there all the time",
        remedy="Give each command an --out of its own.",
    )


def _swap(stage: Path, out: Path) -> None:
    """Rename *stage* to *out*; what stood there goes only after the new one is in place."""
    if not os.path.lexists(out):  # a link that leads nowhere stands there, too
        stage.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
    aside.rmdir()
    out.rename(aside)
    try:
        stage.rename(out)
    except OSError:
        try:
            aside.rename(out)
        except OSError as error:
            if error.errno in _RACES:
                _remove(aside)  # a newer result took its place
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # --force replaces files and links as well
        with contextlib.suppress(OSError):
            path.unlink()


__all__ = ["MARKER", "check_replaceable", "staged"]
