"""How far a variant's outputs are from the source's, as a whole and row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.samples._types import chunk_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_kernels import ErrorAccumulator, ErrorMetrics

    Array = NDArray[Any]


def is_exact(array: Array) -> bool:
    """Return whether an output holds integers, bools or text: equal or not, nothing between."""
    return array.dtype.kind in "iubSUO"


def output_errors(reference: Array, actual: Array) -> ErrorMetrics:
    """Compare two outputs in one pass, piece by piece, so that they may be memory-mapped.

    Args:
        reference: The source's output, ``N`` rows first, at least one number in it.
        actual: The variant's, of the same shape; the dtype may differ.

    Returns:
        Metrics as ``lepton_kernels`` defines them.
    """
    return accumulate(reference, actual).result()


def accumulate(reference: Array, actual: Array) -> ErrorAccumulator:
    """Return the sums from which :func:`output_errors` follows."""
    from lepton_kernels import ErrorAccumulator

    total = ErrorAccumulator()
    for start, stop in chunk_bounds(reference):
        total.update(reference[start:stop], actual[start:stop])
    return total


def row_errors(reference: Array, actual: Array) -> NDArray[np.float64]:
    """Return each row's L2 error relative to the typical row of the source.

    Row ``i`` has ``‖a_i - r_i‖ / sqrt(mean_j ‖r_j‖²)``; the mean square over all rows is the
    squared ``rel_l2`` of the whole output, and a row of zeros in the source does no harm. A row
    with a NaN or an infinity that is not the same on both sides has an infinite error. Outputs
    that are equal or not (integers, text) have errors 0 and 1.

    Args:
        reference: The source's output, ``N`` rows first.
        actual: The variant's, of the same shape.

    Returns:
        ``float64[N]``, in units of the typical row's norm.
    """
    n = len(reference)
    squared, norm = np.zeros(n), np.zeros(n)
    for start, stop in chunk_bounds(reference):
        left, right = _flat(reference[start:stop]), _flat(actual[start:stop])
        if is_exact(left):
            squared[start:stop] = (left != right).any(axis=1)
            norm[start:stop] = 1.0
            continue
        left, right = left.astype(np.float64), right.astype(np.float64)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(same, 0.0, right - left)
            squared[start:stop] = np.einsum("ij,ij->i", difference, difference)
        finite = np.where(np.isfinite(left), left, 0.0)
        norm[start:stop] = np.einsum("ij,ij->i", finite, finite)
    squared[np.isnan(squared)] = np.inf
    typical = float(np.sqrt(norm.mean())) if n else 0.0
    errors = np.sqrt(squared)
    if typical == 0.0:
        return np.where(errors == 0.0, 0.0, np.inf)
    scaled: NDArray[np.float64] = errors / typical
    return scaled


def _flat(rows: Array) -> Array:
    return np.asarray(rows).reshape(len(rows), -1)


__all__ = ["accumulate", "is_exact", "output_errors", "row_errors"]
