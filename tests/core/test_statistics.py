"""Bounds: equal to an independent implementation, and true as sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc
from scipy.stats import beta, binom

from lepton_core.statistics import (
    binomial_upper,
    describe_bound,
    percent,
    regularized_beta,
    samples_needed,
)

CONFIDENCES = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.9999])


@st.composite
def counts(draw):
    n = draw(st.integers(1, 200_000))
    return draw(st.integers(0, n)), n


@given(counts(), CONFIDENCES)
def test_upper_bound_equals_scipy(count, confidence):
    k, n = count
    expected = 1.0 if k == n else beta.ppf(confidence, k + 1, n - k)
    assert math.isclose(binomial_upper(k, n, confidence), expected, rel_tol=1e-7)


@given(counts(), CONFIDENCES)
def test_upper_bound_inverts_the_binomial(count, confidence):
    k, n = count
    upper = binomial_upper(k, n, confidence)
    if k < n:
        assert math.isclose(binom.cdf(k, n, upper), 1 - confidence, rel_tol=1e-5)


@given(st.floats(0, 1), st.floats(0.5, 5e4), st.floats(0.5, 5e4))
def test_beta_equals_scipy(x, a, b):
    assert math.isclose(regularized_beta(x, a, b), betainc(a, b, x), rel_tol=1e-7, abs_tol=1e-9)


@given(st.floats(1e-5, 0.9), CONFIDENCES)
def test_samples_needed_is_the_smallest(rate, confidence):
    n = samples_needed(rate, confidence)
    assert binomial_upper(0, n, confidence) <= rate
    assert n == 1 or binomial_upper(0, n - 1, confidence) > rate


def test_the_sentence_of_the_design():
    assert describe_bound(0, 600) == "0 of 600 changed: under 0.5 % at 95 %"
    assert samples_needed(0.005) == 598


@given(counts(), CONFIDENCES)
def test_the_sentence_never_promises_more_than_the_bound(count, confidence):
    text = describe_bound(*count, confidence)
    said = float(text.split("under ")[1].split(" %")[0]) / 100
    assert said >= binomial_upper(*count, confidence) * (1 - 1e-8)


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0 %"), (1, "100 %"), (0.123, "12 %"), (0.000456, "0.046 %")]
)
def test_percent(rate, text):
    assert percent(rate) == text


@pytest.mark.parametrize(
    "arguments", [(-1, 5), (6, 5), (0, -1), (0, 5, 0.0), (0, 5, 1.0), (0, 5, math.nan)]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must lie between"):
        binomial_upper(*arguments)


@pytest.mark.parametrize("arguments", [(0.0,), (1.0,), (0.1, 1.0)])
def test_bad_rates(arguments):
    with pytest.raises(ValueError, match="must lie between"):
        samples_needed(*arguments)


def test_nothing_is_known_from_nothing():
    assert binomial_upper(0, 0) == 1.0
