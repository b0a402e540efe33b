"""Room on the disk, looked at before native code writes.

torch's archive writer ends the process when the disk fills up (its destructor throws), and
safetensors raises an error of its own; neither is an ``OSError`` that could be told to the user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING

import torch

from lepton_core.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_OVERHEAD = 1 << 20
"""Bytes kept free for headers and the graph."""


def bytes_of(values: Iterable[object]) -> int:
    """Return the bytes of the tensors among *values*, shared storage counted once."""
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in values
        if isinstance(value, torch.Tensor)
    }
    return sum(storages.values())


@contextlib.contextmanager
def writing(path: Path, size: int) -> Iterator[None]:
    """Guard the writing of about *size* bytes to *path*.

    Raises:
        StorageError: There is not that much room, or the place may not be written.
    """
    with disk_errors(path.name):
        free = shutil.disk_usage(path.parent).free
        if free < size + _OVERHEAD:
            reason = f"{size + _OVERHEAD:,} bytes are needed, {free:,} are free"
            raise OSError(errno.ENOSPC, reason)
        if not os.access(path.parent, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        try:
            yield
        except BaseException:
            path.unlink(missing_ok=True)
            raise
