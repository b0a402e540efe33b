"""Divide samples into rows for calibration and held-out rows for the proof."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from lepton_core.errors import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.samples._types import Samples

MAX_CALIBRATION = 512
"""More rows than this hardly move the ranges of a calibration, and every row costs a proof."""


def default_calibration(n: int) -> int:
    """Return how many of *n* rows calibrate: a third, at most :data:`MAX_CALIBRATION`."""
    return min(n // 3, MAX_CALIBRATION)


def split_rows(
    samples: Samples, *, seed: int, calibration: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose rows for calibration; the rest is held out.

    Rows of equal content stay together, so that no held-out row has been seen in calibration
    under another number; there may therefore be fewer calibration rows than asked for. The
    choice depends on the seed and the rows' content alone: groups are ordered by BLAKE2b of seed
    and content, whatever their order in the file, the platform or the version of NumPy.

    Args:
        samples: Rows to divide.
        seed: Another seed gives another division.
        calibration: How many rows to calibrate on at most; :func:`default_calibration` if not
            given.

    Returns:
        Positions for calibration and held-out positions, each ``int64`` and ascending; the
        second is never empty.

    Raises:
        SampleError: ``LPT-DATA-020`` *calibration* is negative or leaves nothing held out.
    """
    n = len(samples)
    wanted = default_calibration(n) if calibration is None else calibration
    if not 0 <= wanted < max(n, 1):
        raise SampleError(
            "LPT-DATA-020",
            f"{wanted} of {n} samples cannot be set aside for calibration",
            cause="at least one row must be held out to compare on",
            remedy=f"Choose between 0 and {max(n - 1, 0)}, or give more samples.",
        )
    groups: dict[bytes, list[int]] = {}
    for index, key in enumerate(samples.row_keys):
        groups.setdefault(key, []).append(index)
    salt = str(seed).encode()
    chosen: list[int] = []
    for key in sorted(groups, key=lambda k: hashlib.blake2b(k, salt=_salt(salt)).digest()):
        if len(chosen) + len(groups[key]) <= wanted:
            chosen += groups[key]
    taken = np.zeros(n, dtype=bool)
    taken[chosen] = True
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def _salt(seed: bytes) -> bytes:
    return hashlib.blake2b(seed, digest_size=16).digest()


def split(
    samples: Samples, *, seed: int, calibration: int | None = None
) -> tuple[Samples | None, Samples]:
    """Divide samples as :func:`split_rows` does, and copy the rows.

    Returns:
        Samples for calibration, ``None`` if there are none, and held-out samples. Both keep the
        rows' original numbers.

    Raises:
        SampleError: As :func:`split_rows`.
    """
    first, second = split_rows(samples, seed=seed, calibration=calibration)
    return samples.rows(first) if len(first) else None, samples.rows(second)


__all__ = ["MAX_CALIBRATION", "default_calibration", "split", "split_rows"]
