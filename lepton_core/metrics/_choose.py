"""Decide what to measure, on which output.

With labels: top-1 accuracy if an output can be a classifier's for them, the mean absolute error
if they are values to predict. Without labels the source is the yardstick: agreement of classes
for classifiers, cosine for embeddings, relative L2 for the rest. What an output is follows, in
this order, from the model's metadata (``task``, ``labels``), its dtype (integers are classes),
its name, and its values (rows that sum to one are probabilities, rows of unit length embeddings).
Whatever the outcome, ``--metric NAME`` or ``NAME:OUTPUT`` overrides it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SampleError, UsageError
from lepton_core.metrics._errors import is_exact
from lepton_core.metrics._measure import class_labels, fits_values
from lepton_core.metrics._registry import METRICS, Metric, find_metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

_CLASSIFIER = re.compile(r"logit|prob|softmax|score|(^|[^a-z])class", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|pool|feature|hidden", re.IGNORECASE)
_EMBEDDING_TASKS = ("feature-extraction", "sentence-similarity", "embedding")
_UNUSED = "the labels fit no output and are not used"
_LOOK_AT = 256
"""Rows whose values are looked at to tell what an output is."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure.

    Attributes:
        metric: The metric.
        output: Name of the output.
        why: Why these, in one sentence.
        warning: What the user should know: labels that were given and cannot be used, and why.
    """

    metric: Metric
    output: str
    why: str
    warning: str = ""


def choose_metric(
    name: str | None,
    outputs: Mapping[str, Array],
    labels: Array | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Choice:
    """Choose a metric and an output.

    Args:
        name: ``NAME``, ``NAME:OUTPUT``, or ``None`` to decide by the rules of this module.
            ``top1`` without labels becomes ``agreement``, and the choice says so.
        outputs: The source's outputs, ``N`` rows first, in the model's order.
        labels: ``N`` labels if there are any.
        metadata: The source model's metadata.

    Raises:
        UsageError: ``LPT-METRIC-001`` no such metric, ``LPT-METRIC-002`` it needs labels,
            ``LPT-METRIC-003`` no such output, ``LPT-METRIC-004`` the metric does not apply to it.
        SampleError: ``LPT-DATA-018`` the labels do not fit the output.
    """
    if not outputs:
        raise UsageError(
            "LPT-METRIC-003", "The model has no outputs", remedy="Nothing can be compared."
        )
    facts = metadata or {}
    if name is None:
        return _by_rule(outputs, labels, facts)
    metric, output = find_metric(name)
    if output is not None and output not in outputs:
        raise UsageError(
            "LPT-METRIC-003",
            f"The model has no output {output!r}",
            cause=f"its outputs are {', '.join(map(repr, outputs))}",
            remedy="Write --metric NAME:OUTPUT with one of them.",
            details={"outputs": list(outputs)},
        )
    return _asked_for(metric, output, outputs, labels, facts)


def _asked_for(
    metric: Metric,
    output: str | None,
    outputs: Mapping[str, Array],
    labels: Array | None,
    facts: Mapping[str, Any],
) -> Choice:
    why = "asked for"
    if metric.name == "top1" and labels is None:
        metric, why = METRICS["agreement"], "top1 was asked for; without labels it is agreement"
    if metric.needs_labels and labels is None:
        raise UsageError(
            "LPT-METRIC-002",
            f"The metric {metric.name!r} needs labels",
            cause="the samples have no array 'labels'",
            remedy="Add an array 'labels' to the samples, or ask for --metric agreement.",
        )
    usable = [n for n in outputs if _applies(metric, outputs[n])]
    if output is not None:
        _check_applies(metric, output, outputs[output])
    elif not usable:
        _check_applies(metric, *next(iter(outputs.items())))
    elif metric.needs_labels and labels is not None:
        output = _labelled_output(outputs, labels) or usable[0]
        class_labels(labels, outputs[output])
    else:
        output = _preferred(metric, usable, outputs, facts)
    return Choice(metric, output or usable[0], why)


def _preferred(
    metric: Metric, usable: list[str], outputs: Mapping[str, Array], facts: Mapping[str, Any]
) -> str:
    kind = {"agreement": "classifier", "cosine": "embedding"}.get(metric.name)
    fitting = [n for n in usable if _kind(n, outputs[n], facts)[0] == kind]
    return (fitting or usable)[0]


def _applies(metric: Metric, output: Array) -> bool:
    if metric.name in ("top1", "top5"):
        return _has_classes(output) or (metric.name == "top1" and _is_class(output))
    return metric.name == "agreement" or not is_exact(output)


def _check_applies(metric: Metric, name: str, output: Array) -> None:
    if _applies(metric, output):
        return
    raise UsageError(
        "LPT-METRIC-004",
        f"The metric {metric.name!r} does not apply to output {name!r}",
        cause=f"it holds {output.dtype} of shape {list(output.shape)}; "
        + ("classes need [rows, 2 or more]" if metric.needs_labels else "it is not numeric"),
        remedy="Ask for another metric (agreement applies to every output) or output.",
    )


def _by_rule(
    outputs: Mapping[str, Array], labels: Array | None, facts: Mapping[str, Any]
) -> Choice:
    note = warning = ""
    if labels is not None:
        if (name := _labelled_output(outputs, labels)) is not None:
            return Choice(METRICS["top1"], name, "labels are class indices of this output")
        if (name := _valued_output(outputs, labels)) is not None:
            return Choice(METRICS["mae"], name, "labels are values of this output")
        note = f"; {_UNUSED}"
        warning = _misfit(outputs, labels)
    first: Choice | None = None
    for name, output in outputs.items():
        kind, why = _kind(name, output, facts)
        if kind == "classifier":
            return Choice(METRICS["agreement"], name, f"no labels; {why}{note}", warning)
        if kind == "embedding" and (first is None or first.metric.name != "cosine"):
            first = Choice(METRICS["cosine"], name, f"no labels; {why}{note}", warning)
        if first is None and kind == "values":
            first = Choice(METRICS["rel_l2"], name, f"no labels; {why}{note}", warning)
    if first is None:  # every output is text
        name = next(iter(outputs))
        return Choice(METRICS["agreement"], name, f"output {name!r} is equal or not{note}", warning)
    return first


def _misfit(outputs: Mapping[str, Array], labels: Array) -> str:
    """Say that labels are not used, and what speaks against the likeliest output."""
    names = [n for n in outputs if _has_classes(outputs[n])]
    name = next((n for n in names if _CLASSIFIER.search(n)), names[0] if names else None)
    if name is None:
        shapes = ", ".join(f"{n!r} {list(array.shape)}" for n, array in outputs.items())
        return f"{_UNUSED}: they have shape {list(labels.shape)}, the outputs {shapes}"
    try:
        class_labels(labels, outputs[name])
    except SampleError as error:
        return f"{_UNUSED}: for {name!r} they {error.message.removeprefix('The labels ')}"
    return _UNUSED


def _labelled_output(outputs: Mapping[str, Array], labels: Array) -> str | None:
    """Return the output that can be a classifier's for *labels*, likely names first."""
    fitting = []
    for name, output in outputs.items():
        if not (_has_classes(output) or _is_class(output)):
            continue
        try:
            class_labels(labels, output)
        except SampleError:
            continue
        if labels.dtype.kind == "f" and not _has_classes(output):
            continue
        fitting.append(name)
    scores = [n for n in fitting if _has_classes(outputs[n])]
    named = [n for n in scores if _CLASSIFIER.search(n)]
    return next(iter([*named, *scores, *fitting]), None)


def _valued_output(outputs: Mapping[str, Array], labels: Array) -> str | None:
    for name, output in outputs.items():
        if not is_exact(output) and fits_values(labels, output):
            return name
    return None


def _has_classes(output: Array) -> bool:
    return output.ndim == 2 and output.shape[1] >= 2 and not is_exact(output)


def _is_class(output: Array) -> bool:
    return output.dtype.kind in "iub" and output.shape in ((len(output),), (len(output), 1))


def _kind(name: str, output: Array, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what an output is (classifier, embedding, values, text) and how that is known."""
    if is_exact(output):
        return (("text" if output.dtype.kind in "SUO" else "classifier"),
                f"output {name!r} holds {output.dtype}")  # fmt: skip
    width = output.shape[-1] if output.ndim >= 2 else 0
    task = str(facts.get("task") or "")
    if width >= 2 and ("classification" in task or _label_count(facts) == width):
        return "classifier", "the model's metadata says that it is a classifier"
    if task in _EMBEDDING_TASKS:
        return "embedding", f"the model's task is {task}"
    if width >= 2 and _CLASSIFIER.search(name):
        return "classifier", f"output {name!r} is named like a classifier's"
    if _EMBEDDING.search(name):
        return "embedding", f"output {name!r} is named like an embedding"
    return _kind_by_values(name, output, width)


def _label_count(facts: Mapping[str, Any]) -> int:
    names = facts.get("labels") or facts.get("id2label") or ()
    return len(names) if isinstance(names, list | tuple | dict) else 0


def _kind_by_values(name: str, output: Array, width: int) -> tuple[str, str]:
    rows = np.asarray(output[:_LOOK_AT], dtype=np.float64)
    if width >= 2 and np.isfinite(rows).all():
        if (rows >= 0).all() and np.allclose(rows.sum(axis=-1), 1.0, atol=1e-3):
            return "classifier", f"the rows of output {name!r} sum to one"
        if width >= 8 and np.allclose((rows * rows).sum(axis=-1), 1.0, atol=1e-3):
            return "embedding", f"the rows of output {name!r} have length one"
    return "values", f"output {name!r} is neither a classifier's nor an embedding"


__all__ = ["Choice", "choose_metric"]
