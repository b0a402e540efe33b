"""The error of outputs with every channel counted alike, whatever its scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ROWS = 4096
"""Values of a channel are looked at in this many places at most, spread evenly."""


def balanced_error(
    reference: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]
) -> float:
    """Return the relative error of the outputs, averaged over channels.

    For each channel it is the root of ``sum (r - a)^2 / sum (r - mean r)^2``, at most 1; one
    large channel cannot hide what others lost, as it does in the relative L2 of a whole output.
    Channels lie along axis 1 of four-dimensional outputs and along the last axis of others; one
    that never changes counts by its own magnitude, or not at all if it is 0.

    Args:
        reference: Outputs of the source, rows first.
        actual: Outputs of the variant, of the same shapes.

    Returns:
        0 to 1; infinite if an output is missing or not finite; 0 without float outputs.
    """
    found: list[float] = []
    for name, expected in reference.items():
        if not np.issubdtype(expected.dtype, np.floating):
            continue
        if name not in actual:
            return math.inf
        one, other = (_channels(a) for a in (expected, actual[name]))
        if one.shape != other.shape or not np.isfinite(other).all():
            return math.inf
        lost = ((one - other) ** 2).sum(0)
        spread = ((one - one.mean(0)) ** 2).sum(0)
        power = np.where(spread > 1e-12 * (one**2).sum(0), spread, (one**2).sum(0))
        alive = power > 0
        found += np.minimum(np.sqrt(lost[alive] / power[alive]), 1.0).tolist()
    return float(np.mean(found)) if found else 0.0


def _channels(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return an output as ``(places, channels)``."""
    if array.ndim < 2:
        return np.asarray(array, np.float64).reshape(-1, 1)
    axis = 1 if array.ndim == 4 else array.ndim - 1
    flat = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    if len(flat) > ROWS:
        flat = flat[np.linspace(0, len(flat) - 1, ROWS).astype(np.int64)]
    return np.asarray(flat, np.float64)


__all__ = ["balanced_error"]
