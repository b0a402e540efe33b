"""Measure a metric on the source's and on a variant's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SampleError
from lepton_core.metrics._errors import is_exact, output_errors, row_errors
from lepton_core.samples._types import chunk_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.metrics._choose import Choice
    from lepton_core.metrics._registry import Metric

    Array = NDArray[Any]
    Floats = NDArray[np.float64]

_NO_CLASS = -1


@dataclass(frozen=True)
class Measurement:
    """A metric's values for source and variant on the same rows.

    Attributes:
        metric: What was measured.
        output: On which output.
        source: Its value for the source (1 or 0 where the source is the yardstick).
        variant: Its value for the variant.
        drop: What was lost, in the metric's unit; positive is worse.
        per_sample: Each row's own loss, ``float64[N]``; larger is worse. For shares of samples
            -1, 0 or 1 (or a fraction of positions), else the row's error.
        changed: Which rows' classes changed, ``bool[N]``; ``None`` unless the metric is a share.
        why: Why this metric and this output.
    """

    metric: Metric
    output: str
    source: float
    variant: float
    drop: float
    per_sample: Floats
    changed: NDArray[np.bool_] | None
    why: str

    @property
    def worse(self) -> NDArray[np.bool_]:
        """Which rows lost something, ``bool[N]``; their share bounds a share's drop."""
        worse: NDArray[np.bool_] = self.per_sample > 0
        return worse


def measure(
    choice: Choice,
    reference: Mapping[str, Array],
    actual: Mapping[str, Array],
    labels: Array | None = None,
) -> Measurement:
    """Measure the chosen metric.

    A row in which an output is not finite has no class and a cosine of -1; other distances
    become infinite.

    Args:
        choice: From :func:`~lepton_core.metrics.choose_metric`.
        reference: The source's outputs, ``N`` rows first; possibly memory-mapped.
        actual: The variant's outputs, of the same shapes.
        labels: ``N`` labels if there are any.

    Raises:
        SampleError: ``LPT-DATA-018`` a label is not a class of the output.
    """
    left, right = reference[choice.output], actual[choice.output]
    name = choice.metric.name
    if name in ("top1", "top5"):
        if labels is None:  # choose_metric refuses this; measuring must not guess
            msg = f"{name} needs labels"
            raise ValueError(msg)
        classes = class_labels(labels, left)
        k = 1 if name == "top1" else 5
        return _accuracy(choice, left, right, classes, k)
    if name == "agreement":
        return _agreement(choice, left, right)
    if name == "mae" and labels is not None and fits_values(labels, left):
        return _label_error(choice, left, right, labels)
    return _distance(choice, left, right)


def _accuracy(
    choice: Choice, left: Array, right: Array, labels: NDArray[np.int64], k: int
) -> Measurement:
    before, after = in_top(left, labels, k), in_top(right, labels, k)
    n = len(labels)
    changed = predictions(left) != predictions(right) if k == 1 else before != after
    lost = before.astype(np.float64) - after.astype(np.float64)
    # Differences of counts, not of quotients: 3 of 600 must be 0.005, not a hair above it.
    drop = (int(before.sum()) - int(after.sum())) / n
    values = float(before.mean()), float(after.mean())
    return Measurement(choice.metric, choice.output, *values, drop, lost, changed, choice.why)


def _agreement(choice: Choice, left: Array, right: Array) -> Measurement:
    n = len(left)
    if is_exact(left) or left.ndim < 2:
        differs = _unequal_rows(left, right)
        lost = differs.astype(np.float64)
    else:
        unequal = (predictions(left) != predictions(right)).reshape(n, -1)
        differs, lost = unequal.any(axis=1), unequal.mean(axis=1)
    drop = float(lost.sum() / n)
    return Measurement(
        choice.metric, choice.output, 1.0, 1.0 - drop, drop, lost, differs, choice.why
    )


def _distance(choice: Choice, left: Array, right: Array) -> Measurement:
    name = choice.metric.name
    if name == "cosine":
        rows = 1.0 - row_cosines(left, right)
        drop = float(rows.mean())
        return Measurement(
            choice.metric, choice.output, 1.0, 1.0 - drop, drop, rows, None, choice.why
        )
    errors = output_errors(left, right)
    if name == "rel_l2":
        value, rows = errors.rel_l2, row_errors(left, right)
    else:
        value = errors.max_abs if name == "max_abs" else errors.mean_abs
        rows = _row_absolute(left, right, mean=name == "mae")
    return Measurement(choice.metric, choice.output, 0.0, value, value, rows, None, choice.why)


def _label_error(choice: Choice, left: Array, right: Array, labels: Array) -> Measurement:
    wanted = labels.reshape(left.shape)
    before, after = (_row_absolute(wanted, each, mean=True) for each in (left, right))
    with np.errstate(invalid="ignore"):
        lost = after - before
    values = float(before.mean()), float(after.mean())
    return Measurement(
        choice.metric, choice.output, *values, values[1] - values[0], lost, None, choice.why
    )


def predictions(scores: Array) -> NDArray[np.int64]:
    """Return the class with the highest score along the last axis, the first of equals.

    An output that holds classes already (integers, ``[N]`` or ``[N, 1]``) is returned as it is.
    Where a score is not finite there is no class, and -1 stands for it.
    """
    if is_exact(scores):
        return np.asarray(scores).reshape(len(scores)).astype(np.int64)
    result = np.empty(scores.shape[:-1], np.int64)
    for start, stop in chunk_bounds(scores):
        piece = np.asarray(scores[start:stop])
        classes = piece.argmax(axis=-1)
        result[start:stop] = np.where(np.isfinite(piece).all(axis=-1), classes, _NO_CLASS)
    return result


def in_top(scores: Array, labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Return for each row whether fewer than *k* classes come before the label's.

    Classes come in order of falling score, equals in order of their index.
    """
    if is_exact(scores):
        same: NDArray[np.bool_] = predictions(scores) == labels
        return same
    result = np.zeros(len(scores), bool)
    columns = np.arange(scores.shape[-1])
    for start, stop in chunk_bounds(scores):
        piece, wanted = np.asarray(scores[start:stop]), labels[start:stop, np.newaxis]
        own = np.take_along_axis(piece, wanted, axis=1)
        before = (piece > own) | ((piece == own) & (columns < wanted))
        result[start:stop] = (before.sum(axis=1) < k) & np.isfinite(piece).all(axis=1)
    return result


def row_cosines(left: Array, right: Array) -> Floats:
    """Return each row's cosine; 1 if both rows are zero, 0 if one is, -1 if one is not finite."""
    result = np.empty(len(left))
    for start, stop in chunk_bounds(left):
        a = np.asarray(left[start:stop]).reshape(stop - start, -1).astype(np.float64)
        b = np.asarray(right[start:stop]).reshape(stop - start, -1).astype(np.float64)
        finite = np.logical_and.reduce(np.isfinite(a) & np.isfinite(b), axis=1)
        a, b = np.where(finite[:, None], a, 0.0), np.where(finite[:, None], b, 0.0)
        norm_a, norm_b = np.sqrt((a * a).sum(axis=1)), np.sqrt((b * b).sum(axis=1))
        norms = norm_a * norm_b
        dots = np.einsum("ij,ij->i", a, b)
        cosines = np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), norm_a == norm_b)
        # Equal rows are exactly alike; rounding must not say otherwise.
        cosines = np.where((a == b).all(axis=1), 1.0, np.clip(cosines, -1.0, 1.0))
        result[start:stop] = np.where(finite, cosines, -1.0)
    return result


def _row_absolute(left: Array, right: Array, *, mean: bool) -> Floats:
    result = np.empty(len(left))
    for start, stop in chunk_bounds(left):
        a = np.asarray(left[start:stop]).reshape(stop - start, -1).astype(np.float64)
        b = np.asarray(right[start:stop]).reshape(stop - start, -1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where(a == b, 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.where(np.isnan(a) & np.isnan(b), 0.0, np.inf), gap)
        result[start:stop] = gap.mean(axis=1) if mean else gap.max(axis=1)
    return result


def _unequal_rows(left: Array, right: Array) -> NDArray[np.bool_]:
    result = np.empty(len(left), bool)
    for start, stop in chunk_bounds(left):
        a = np.asarray(left[start:stop]).reshape(stop - start, -1)
        b = np.asarray(right[start:stop]).reshape(stop - start, -1)
        result[start:stop] = (a != b).any(axis=1)
    return result


def class_labels(labels: Array, scores: Array) -> NDArray[np.int64]:
    """Return labels as class indices of *scores*.

    Accepts integers, bools, floats with integer values, and one-hot rows.

    Raises:
        SampleError: ``LPT-DATA-018`` a label is not a class of the output.
    """
    n = len(scores)
    array = np.asarray(labels)
    classes = scores.shape[-1] if scores.ndim == 2 and not is_exact(scores) else None
    if array.shape == scores.shape and array.ndim == 2 and classes:
        array = array.argmax(axis=1)
    if array.shape not in ((n,), (n, 1)):
        raise _label_error_of(f"have shape {list(array.shape)}", scores)
    whole = array.reshape(n).astype(np.int64)
    if (whole != array.reshape(n)).any():
        row = int((whole != array.reshape(n)).argmax())
        raise _label_error_of(
            f"are no class indices: row {row} has {array.reshape(n)[row]}", scores
        )
    if classes is not None and ((whole < 0) | (whole >= classes)).any():
        row = int(((whole < 0) | (whole >= classes)).argmax())
        raise _label_error_of(f"have class {whole[row]} in row {row}", scores)
    return whole


def _label_error_of(what: str, scores: Array) -> SampleError:
    return SampleError(
        "LPT-DATA-018",
        f"The labels {what}; the output has shape {list(scores.shape)}",
        remedy="Give one class index per row, from 0 to the number of classes less one.",
    )


def fits_values(labels: Array, output: Array) -> bool:
    """Return whether *labels* are values to predict: one for each number in *output*."""
    return labels.size == output.size and len(labels) == len(output)


__all__ = ["Measurement", "class_labels", "fits_values", "in_top", "measure", "predictions"]
