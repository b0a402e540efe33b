"""Parity metrics, said in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def error_metrics(reference: NDArray[Any], actual: NDArray[Any]) -> dict[str, float]:
    """The metrics over the positions where both sides are finite, in float64."""
    r, a = (np.asarray(side).astype(np.float64).ravel() for side in (reference, actual))
    finite = np.isfinite(r) & np.isfinite(a)
    same = (r == a) | (np.isnan(r) & np.isnan(a))
    mismatched = int(np.count_nonzero(~finite & ~same))
    r, a = r[finite], a[finite]
    d = np.abs(r - a)
    with np.errstate(all="ignore"):
        error, signal, other = np.sum(d * d), np.sum(r * r), np.sum(a * a)
        norms = np.sqrt(signal) * np.sqrt(other)
        return {
            "compared": r.size,
            "nonfinite_mismatched": mismatched,
            "max_abs": float(d.max(initial=0)),
            "mean_abs": float(d.mean()) if d.size else 0.0,
            "rel_l2": 0.0 if error == 0 else float(np.sqrt(error) / np.sqrt(signal)),
            "sqnr_db": float("inf") if error == 0 else float(10 * np.log10(signal / error)),
            "psnr_db": float("inf")
            if error == 0
            else float(20 * np.log10(np.abs(r).max()) - 10 * np.log10(error / r.size)),
            "cosine": float(np.sum(r * a) / norms) if norms else float(signal == other),
        }


def error_histogram(
    reference: NDArray[Any], actual: NDArray[Any]
) -> tuple[int, int, NDArray[Any], int]:
    """Zeros, underflow, 64 bins and overflow of the absolute errors at finite positions."""
    quarters = ("1", "1.7782794100389228", "3.1622776601683795", "5.6234132519034908")
    edges = [float(f"{quarters[k % 4]}e{k // 4 - 12}") for k in range(65)]
    r, a = (np.asarray(side).astype(np.float64).ravel() for side in (reference, actual))
    finite = np.isfinite(r) & np.isfinite(a)
    d = np.abs(r[finite] - a[finite])
    place = np.bincount(np.searchsorted(edges, d[d > 0], side="right"), minlength=66)
    return int(np.count_nonzero(d == 0)), int(place[0]), place[1:65], int(place[65])


def row_agreement(
    reference: NDArray[Any], actual: NDArray[Any], k: int
) -> tuple[list[float], list[bool], list[int]]:
    """Divergences, equal tops and shared places of the `k` largest, row by row."""
    n = np.shape(reference)[-1]
    sides = (np.asarray(side).astype(np.float64).reshape(-1, n) for side in (reference, actual))
    divergences, same, shared = [], [], []
    for r, a in zip(*sides, strict=True):
        tops = r.max(), a.max()
        if not np.isfinite(tops).all():
            divergences.append(float("nan"))
            same.append(False)
            shared.append(0)
            continue
        with np.errstate(all="ignore"):
            x, y = r - tops[0], a - tops[1]
            p, z = np.exp(x), (np.exp(x).sum(), np.exp(y).sum())
            terms = np.where(p > 0, p * (x - y), 0)
            divergence = terms.sum() / z[0] - np.log(z[0]) + np.log(z[1])
        divergences.append(max(0.0, float(divergence)))
        first, second = (set(np.argsort(-row, kind="stable")[:k].tolist()) for row in (r, a))
        same.append(bool(np.argmax(r) == np.argmax(a)))
        shared.append(len(first & second))
    return divergences, same, shared
