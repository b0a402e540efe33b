"""Giving memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


def trim() -> bool:
    """Return freed memory to the system, where the C library can (glibc's ``malloc_trim``).

    glibc keeps what was freed below the top of its heap. After a copy of a large model is gone, as
    much as the model takes would stay resident.

    Returns:
        Whether anything was returned.
    """
    found = _malloc_trim()
    return bool(found is not None and found(0))


@functools.cache
def _malloc_trim() -> Any:  # noqa: ANN401 - a function of the C library
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


__all__ = ["trim"]
