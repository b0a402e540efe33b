"""Parts of a passport that are computed from outputs: errors, worst samples, the picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.metrics import accumulate, is_exact, row_errors
from lepton_core.samples._types import chunk_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_core.metrics import Measurement
    from lepton_core.samples import Samples
    from lepton_kernels import ErrorAccumulator

    Array = NDArray[Any]

WORST = 10
"""Samples listed as the worst."""
CELLS = 2000
"""Errors per sample that a passport holds at most; more samples share cells, the worst wins."""
DENSITY = 48
"""Cells along each axis of the joint density of values."""


def compare(reference: Array, actual: Array | None) -> dict[str, Any]:
    """Return one output's errors, or a problem in words if it cannot be compared."""
    base: dict[str, Any] = {"dtype": str(reference.dtype), "shape": list(reference.shape[1:])}
    if actual is None:
        return {**base, "exact": is_exact(reference), "problem": "is missing in the variant"}
    base["exact"] = is_exact(reference) and is_exact(actual)
    if actual.shape != reference.shape:
        given, wanted = list(actual.shape), list(reference.shape)
        return {**base, "problem": f"has shape {given}, in the source {wanted}"}
    text = reference.dtype.kind in "SUO" or actual.dtype.kind in "SUO"
    found = {} if text or not reference.size else _errors(accumulate(reference, actual))
    if base["exact"] or text:
        rows = row_errors(reference, actual) if reference.size else np.zeros(len(reference))
        found |= {"rows": len(rows), "mismatched_rows": int((rows > 0).sum())}
        base["exact"] = True
    elif not found:
        return {**base, "exact": True, "rows": max(1, len(reference)), "mismatched_rows": 0}
    return {**base, **found}


def _errors(sums: ErrorAccumulator) -> dict[str, Any]:
    result = sums.result()
    seen = max(1, result.compared)
    return {
        "count": result.count,
        "compared": result.compared,
        "max_abs": result.max_abs,
        "mean_abs": result.mean_abs,
        "rel_l2": result.rel_l2,
        "sqnr_db": result.sqnr_db,
        "cosine": result.cosine,
        "rms_error": math.sqrt(sums.squared_sum / seen),
        "rms_reference": math.sqrt(sums.reference_sum / seen),
        "nan_reference": result.nan_reference,
        "nan_variant": result.nan_actual,
        "inf_reference": result.inf_reference,
        "inf_variant": result.inf_actual,
        "nonfinite_mismatched": result.nonfinite_mismatched,
        "histogram": {
            "zero": result.histogram.zero,
            "underflow": result.histogram.underflow,
            "first_edge_log10": round(math.log10(result.histogram.edges[0]), 6),
            "bins_per_decade": round(1 / math.log10(_ratio(result.histogram.edges))),
            "counts": list(result.histogram.counts),
            "overflow": result.histogram.overflow,
        },
    }


def _ratio(edges: Sequence[float]) -> float:
    return edges[1] / edges[0]


def worst(
    rows: NDArray[np.float64] | None, measured: Measurement | None, samples: Samples
) -> list[dict[str, Any]]:
    """List rows that lost most, then by error; a changed class matters more than any error."""
    if rows is None or measured is None:
        return []
    changed = np.zeros(len(rows), bool) if measured.changed is None else measured.changed
    order = np.lexsort((np.arange(len(rows)), -rows, ~changed))[:WORST]
    original = samples.original_rows
    return [
        {
            "row": int(original[i]),
            "error": float(rows[i]),
            "loss": float(measured.per_sample[i]),
            "changed": bool(changed[i]) if measured.changed is not None else None,
        }
        for i in order
        if rows[i] > 0 or changed[i]
    ]


def picture(
    output: str,
    reference: Mapping[str, Array],
    actual: Mapping[str, Array],
    rows: NDArray[np.float64] | None,
    measured: Measurement | None,
) -> dict[str, Any] | None:
    if rows is None or measured is None or not len(rows):
        return None
    cells = min(CELLS, len(rows))
    starts = np.linspace(0, len(rows), cells, endpoint=False).astype(np.int64)
    changed = None
    if measured.changed is not None:
        changed = np.flatnonzero(np.logical_or.reduceat(measured.changed, starts)).tolist()
    return {
        "output": output,
        "samples": len(rows),
        "errors": [float(f"{e:.3g}") for e in np.maximum.reduceat(rows, starts)],
        "changed_cells": changed,
        "density": _density(reference[output], actual[output]),
    }


def _density(left: Array, right: Array) -> dict[str, Any] | None:
    """Count pairs (source value, variant value) on a square grid over the source's range."""
    if is_exact(left) or not left.size:
        return None
    low, high = math.inf, -math.inf
    for start, stop in chunk_bounds(left):
        piece = np.asarray(left[start:stop], dtype=np.float64)
        piece = piece[np.isfinite(piece)]
        if piece.size:
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    if not low < high:
        return None
    counts = np.zeros((DENSITY, DENSITY), np.int64)
    for start, stop in chunk_bounds(left):
        pair = [np.asarray(a[start:stop], dtype=np.float64).ravel() for a in (left, right)]
        good = np.isfinite(pair[0]) & np.isfinite(pair[1])
        # The variant may leave the source's range; such values count at its border.
        x, y = (np.clip(p[good], low, high) for p in pair)
        counts += np.histogram2d(x, y, bins=DENSITY, range=[(low, high)] * 2)[0].astype(np.int64)
    at = np.argwhere(counts)
    if not len(at):
        return None
    cells = [[int(x), int(y), int(counts[x, y])] for x, y in at]
    return {"low": low, "high": high, "bins": DENSITY, "cells": cells}


__all__ = ["compare", "picture", "worst"]
