"""Metrics: what is chosen, and that it is measured right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_core.errors import SampleError, UsageError
from lepton_core.metrics import METRICS, choose_metric, measure, output_errors, row_errors

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(40, 10)).astype(np.float32)
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
LABELS = RNG.integers(0, 10, 40)


def run(name, reference, actual, labels=None):
    choice = choose_metric(name, {"y": reference}, labels)
    return measure(choice, {"y": reference}, {"y": actual}, labels)


# --- choosing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "labels", "metadata", "expected"),
    [
        ({"y": SCORES}, LABELS, {}, ("top1", "y")),
        ({"y": SCORES}, LABELS[:, None], {}, ("top1", "y")),
        ({"y": SCORES}, LABELS.astype(float), {}, ("top1", "y")),
        ({"y": SCORES}, np.eye(10)[LABELS], {}, ("top1", "y")),
        ({"a": SCORES, "logits": SCORES}, LABELS, {}, ("top1", "logits")),
        ({"label": LABELS, "scores": SCORES}, LABELS, {}, ("top1", "scores")),
        ({"label": LABELS}, LABELS, {}, ("top1", "label")),
        ({"y": SCORES[:, :1]}, RNG.normal(size=40), {}, ("mae", "y")),
        ({"y": SCORES[:, 0]}, RNG.normal(size=40), {}, ("mae", "y")),
        ({"y": SCORES}, RNG.normal(size=40), {}, ("rel_l2", "y")),
        ({"y": SCORES}, LABELS + 5, {}, ("rel_l2", "y")),
        ({"y": SCORES}, None, {}, ("rel_l2", "y")),
        ({"y": SCORES}, None, {"task": "image-classification"}, ("agreement", "y")),
        ({"y": SCORES}, None, {"labels": list("abcdefghij")}, ("agreement", "y")),
        ({"y": SCORES}, None, {"labels": list("ab")}, ("rel_l2", "y")),
        ({"y": SCORES}, None, {"task": "feature-extraction"}, ("cosine", "y")),
        ({"logits": SCORES}, None, {}, ("agreement", "logits")),
        ({"class_probabilities": SCORES}, None, {}, ("agreement", "class_probabilities")),
        ({"subclassed": SCORES}, None, {}, ("rel_l2", "subclassed")),
        ({"y": PROBABILITIES}, None, {}, ("agreement", "y")),
        ({"y": SCORES / np.linalg.norm(SCORES, axis=1, keepdims=True)}, None, {}, ("cosine", "y")),
        ({"x": SCORES, "sentence_embedding": SCORES}, None, {}, ("cosine", "sentence_embedding")),
        ({"last_hidden_state": SCORES[:, None]}, None, {}, ("cosine", "last_hidden_state")),
        ({"x": SCORES, "ids": LABELS}, None, {}, ("agreement", "ids")),
        ({"x": np.array(["a"] * 40)}, None, {}, ("agreement", "x")),
    ],
)  # fmt: skip
def test_choice_by_rule(outputs, labels, metadata, expected):
    choice = choose_metric(None, outputs, labels, metadata)
    assert (choice.metric.name, choice.output) == expected
    assert choice.why


def test_labels_that_fit_nothing_are_named():
    beyond = choose_metric(None, {"y": SCORES}, LABELS + 5)
    assert "labels fit no output" in beyond.why
    assert f"for 'y' they have class {(LABELS + 5)[LABELS >= 5][0]}" in beyond.warning
    odd = choose_metric(None, {"y": SCORES[:, 0]}, np.stack([LABELS] * 3, axis=1))
    assert "they have shape [40, 3], the outputs 'y' [40]" in odd.warning
    assert not choose_metric(None, {"y": SCORES}, LABELS).warning
    assert not choose_metric(None, {"y": SCORES}).warning


def test_asking_overrides_the_rule():
    outputs = {"a": SCORES, "b": SCORES}
    assert choose_metric("cosine", outputs, LABELS).metric.name == "cosine"
    assert choose_metric("rel_l2:b", outputs, LABELS).output == "b"
    assert choose_metric("agreement", {"x": SCORES, "logits": SCORES}).output == "logits"
    top1 = choose_metric("top1", outputs)
    assert top1.metric.name == "agreement"
    assert "without labels" in top1.why


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "code"),
    [
        ("tpo1", {"y": SCORES}, None, "LPT-METRIC-001"),
        ("", {"y": SCORES}, None, "LPT-METRIC-001"),
        ("top5", {"y": SCORES}, None, "LPT-METRIC-002"),
        ("cosine:z", {"y": SCORES}, None, "LPT-METRIC-003"),
        (None, {}, None, "LPT-METRIC-003"),
        ("top1", {"y": SCORES[:, :1]}, LABELS, "LPT-METRIC-004"),
        ("top5:y", {"y": LABELS}, LABELS, "LPT-METRIC-004"),
        ("cosine", {"y": LABELS}, None, "LPT-METRIC-004"),
    ],
)
def test_what_cannot_be_measured(name, outputs, labels, code):
    with pytest.raises(UsageError) as caught:
        choose_metric(name, outputs, labels)
    assert caught.value.code == code
    assert caught.value.remedy


def test_misspelt_metric_is_suggested():
    with pytest.raises(UsageError, match="top1"):
        choose_metric("tpo1", {"y": SCORES})


@pytest.mark.parametrize("labels", [LABELS + 1, -LABELS, LABELS + 0.5, SCORES[:, :3]])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(SampleError) as caught:
        choose_metric("top1", {"y": SCORES}, labels)
    assert caught.value.code == "LPT-DATA-018"


# --- measuring --------------------------------------------------------------------------------


def test_top1_counts():
    actual = SCORES.copy()
    actual[:4] = -actual[:4]
    got = run("top1", SCORES, actual, LABELS)
    before, after = SCORES.argmax(1) == LABELS, actual.argmax(1) == LABELS
    assert got.source == before.mean()
    assert got.variant == after.mean()
    assert got.drop == pytest.approx(before.mean() - after.mean(), abs=1e-15)
    np.testing.assert_array_equal(got.changed, SCORES.argmax(1) != actual.argmax(1))
    np.testing.assert_array_equal(got.worse, before & ~after)


def test_a_drop_of_three_in_600_is_exactly_a_budget_of_half_a_percent():
    labels = np.zeros(600, int)
    reference = np.tile(np.float32([1, 0]), (600, 1))
    reference[:18] = [0, 1]
    actual = reference.copy()
    actual[20:23] = [0, 1]
    assert run("top1", reference, actual, labels).drop == 0.005


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (20, 8), elements=st.integers(-3, 3)), st.integers(0, 7))
def test_top5_is_the_stable_order(scores, label):
    labels = np.full(20, label)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    got = run("top5", scores, scores, labels)
    assert got.source == (order == label).any(axis=1).mean()
    assert got.drop == 0


def test_agreement():
    actual = SCORES.copy()
    actual[7] = -actual[7]
    got = run("agreement", SCORES, actual)
    assert (got.source, got.drop, got.changed.sum()) == (1.0, 1 / 40, 1)
    assert got.changed[7]
    ids = run("agreement", LABELS, np.where(np.arange(40) == 3, 99, LABELS))
    assert ids.drop == 1 / 40
    tokens = RNG.normal(size=(6, 4, 9))
    other = tokens.copy()
    other[2, 1] *= -1
    positions = run("agreement", tokens, other)
    assert positions.drop == pytest.approx(1 / 24)
    assert positions.changed.tolist() == [False, False, True, False, False, False]


def test_cosine():
    actual = SCORES + RNG.normal(size=SCORES.shape) * 0.1
    cosines = (SCORES * actual).sum(1) / np.linalg.norm(SCORES, axis=1)
    cosines /= np.linalg.norm(actual, axis=1)
    got = run("cosine", SCORES, actual)
    assert got.variant == pytest.approx(cosines.mean())
    np.testing.assert_allclose(got.per_sample, 1 - cosines, atol=1e-7)
    zero = np.zeros((3, 4), np.float32)
    other = np.float32([[0, 0, 0, 0], [1, 0, 0, 0], [np.nan, 0, 0, 0]])
    assert run("cosine", zero, other).per_sample.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["rel_l2", "max_abs", "mae"])
def test_distances_equal_numpy(name):
    actual = SCORES + RNG.normal(size=SCORES.shape).astype(np.float32) * 0.01
    gap = actual.astype(float) - SCORES
    expected = {
        "rel_l2": np.linalg.norm(gap) / np.linalg.norm(SCORES.astype(float)),
        "max_abs": np.abs(gap).max(),
        "mae": np.abs(gap).mean(),
    }[name]
    got = run(name, SCORES, actual)
    assert got.variant == got.drop == pytest.approx(expected, rel=1e-9)
    assert got.source == 0
    assert got.changed is None


def test_mae_to_labels_compares_with_the_source():
    labels = RNG.normal(size=40)
    reference, actual = labels[:, None] + 0.5, labels[:, None] - 0.25
    got = run("mae", reference, actual, labels)
    assert (got.source, got.variant) == pytest.approx((0.5, 0.25))
    assert got.drop == pytest.approx(-0.25)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 5)),
               elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_row_errors_make_up_the_whole(reference, seed):
    actual = reference + np.random.default_rng(seed).normal(size=reference.shape)
    rows, whole = row_errors(reference, actual), output_errors(reference, actual).rel_l2
    if not np.any(reference):
        assert np.isinf(rows).all()
        assert np.isinf(whole)
        return
    assert np.sqrt((rows**2).mean()) == pytest.approx(whole, rel=1e-9)


def test_row_errors_of_what_is_not_finite():
    reference = np.array([[1.0, np.nan], [1.0, np.inf], [1.0, 2.0], [3.0, 4.0]])
    actual = np.array([[1.0, np.nan], [1.0, -np.inf], [1.0, np.nan], [3.0, 4.0]])
    assert row_errors(reference, actual).tolist() == [0.0, np.inf, np.inf, 0.0]
    assert row_errors(np.array([1, 2, 3]), np.array([1, 2, 4])).tolist() == [0, 0, 1]


def test_a_variant_without_finite_scores_is_wrong_everywhere():
    got = run("top1", SCORES, np.full_like(SCORES, np.nan), SCORES.argmax(1))
    assert (got.source, got.variant, got.drop) == (1.0, 0.0, 1.0)


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.unit
        assert metric.summary
        assert not metric.needs_labels or metric.labels == "required"


def test_pieces_do_not_change_the_result(monkeypatch):
    from lepton_core.samples import _types

    actual = SCORES * np.float32(1.01)
    whole = [run(n, SCORES, actual, LABELS) for n in METRICS]
    original = _types.chunk_bounds
    for module in ("_errors", "_measure"):
        monkeypatch.setattr(f"lepton_core.metrics.{module}.chunk_bounds",
                            lambda a: original(a, 120))  # fmt: skip
    for before, name in zip(whole, METRICS, strict=True):
        after = run(name, SCORES, actual, LABELS)
        assert after.variant == pytest.approx(before.variant, rel=1e-12)
        np.testing.assert_array_equal(after.per_sample, before.per_sample)
