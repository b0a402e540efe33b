"""Verdicts: every rule, at its edge."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core.errors import UsageError
from lepton_core.verdicts import Limits, MetricFacts, SampleFacts, judge, precision_class

GOOD = {"y": {"rel_l2": 1e-6, "cosine": 1.0, "nonfinite_mismatched": 0}}
MANY = SampleFacts("npz", 1000, 1000)


def top1(worse=0, better=0, n=1000):
    losses = [1.0] * worse + [-1.0] * better + [0.0] * (n - worse - better)
    drop = (worse - better) / n
    return MetricFacts("top1", 0.9, 0.9 - drop, drop, True, losses, worse + better)


def output(**changes):
    return {"y": {**GOOD["y"], **changes}}


def test_a_clean_pass_is_proved_when_the_bound_fits():
    verdict = judge("fp32", GOOD, top1(), MANY, max_drop=0.005)
    assert (verdict.verdict, verdict.proved, verdict.reasons) == ("pass", True, ())
    assert "0 of 1000 changed: under 0.3 % at 95 %" in verdict.why
    assert verdict.bound.upper <= 0.005


def test_a_pass_without_proof_says_what_is_missing():
    verdict = judge("fp32", GOOD, top1(n=100), SampleFacts("npz", 100, 100), max_drop=0.005)
    assert (verdict.verdict, verdict.proved) == ("pass", False)
    assert "598 samples" in verdict.why


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.0001, 0.05))
def test_proved_implies_pass_and_a_fitting_bound(worse, better, budget):
    verdict = judge("int8", GOOD, top1(worse, better), MANY, max_drop=budget)
    assert (verdict.verdict == "fail") == ((worse - better) / 1000 > budget * (1 + 1e-9))
    assert verdict.proved == (verdict.bound.upper <= budget and verdict.verdict == "pass")
    if verdict.proved:
        assert worse / 1000 < budget


def test_the_budget_itself_is_still_within():
    assert judge("fp32", GOOD, top1(5), MANY, max_drop=0.005).verdict == "pass"
    assert judge("fp32", GOOD, top1(6), MANY, max_drop=0.005).verdict == "fail"
    assert judge("fp32", GOOD, top1(), MANY, max_drop=0.0).verdict == "pass"
    assert judge("fp32", GOOD, top1(1), MANY, max_drop=0.0).verdict == "fail"


@pytest.mark.parametrize(
    ("precision", "rel_l2", "cosine"),
    [("fp32", 1e-4, 0.9999), ("fp16", 2e-2, 0.999), ("bf16", 2e-2, 0.999),
     ("int8", 0.15, 0.98), ("w4a8", 0.15, 0.98)],
)  # fmt: skip
def test_numeric_limits_of_each_class(precision, rel_l2, cosine):
    def verdict(**changes):
        return judge(precision, output(**changes), top1(), MANY).verdict

    assert verdict(rel_l2=rel_l2, cosine=cosine) == "pass"
    assert verdict(rel_l2=math.nextafter(rel_l2, 1)) == "fail"
    assert verdict(cosine=math.nextafter(cosine, 0)) == "fail"
    assert verdict(rel_l2=math.nan) == "fail"
    assert verdict(cosine=math.nan) == "fail"
    assert verdict(rel_l2=math.inf) == "fail"


def test_new_non_finite_values_fail_whatever_else():
    verdict = judge("int8", output(nonfinite_mismatched=1), top1(), MANY)
    assert verdict.verdict == "fail"
    assert "NaN or infinite" in verdict.why


def test_outputs_that_cannot_be_compared_fail():
    verdict = judge("fp32", output(problem="is missing"), None, MANY)
    assert (verdict.verdict, verdict.bound) == ("fail", None)


def test_exact_outputs_have_the_budget_of_their_class():
    facts = {"exact": True, "rows": 1000, "mismatched_rows": 1}
    assert judge("fp32", {"y": facts}, top1(), MANY).verdict == "pass"
    facts = {"exact": True, "rows": 1000, "mismatched_rows": 2}
    assert judge("fp32", {"y": facts}, top1(), MANY).verdict == "fail"


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        (SampleFacts("random", 1000, 1000), "random noise"),
        (SampleFacts("npz", 1000, 1, constant=True), "the same"),
        (SampleFacts("npz", 29, 29), "only 29 held-out samples"),
        (SampleFacts("npz", 600, 20), "only 20 distinct ones among 600"),
        (SampleFacts("npz", 600, 600, coverage=0.1), "calibrated ranges"),
    ],
)
def test_weak(samples, word):
    verdict = judge("fp32", GOOD, top1(), samples)
    assert (verdict.verdict, verdict.proved) == ("weak", False)
    assert word in verdict.why
    failed = judge("fp32", output(rel_l2=1.0), top1(), samples)
    assert failed.verdict == "fail"
    assert len(failed.reasons) == 2


def test_thirty_are_enough():
    assert judge("fp32", GOOD, top1(n=30), SampleFacts("npz", 30, 30)).verdict == "pass"


def test_distances_prove_by_the_share_of_samples_beyond_the_budget():
    def facts(over, n=1000):
        losses = [1.0] * over + [1e-7] * (n - over)
        return MetricFacts("cosine", 1.0, 1 - 1e-7, 1e-7, False, losses)

    proved = judge("fp32", GOOD, facts(0), MANY)
    assert (proved.verdict, proved.proved, proved.budget) == ("pass", True, 0.0001)
    assert not judge("fp32", GOOD, facts(9), MANY).proved
    assert not judge("fp32", GOOD, facts(0, 100), MANY).proved


def test_units_without_a_default_budget_need_one():
    facts = MetricFacts("max_abs", 0.0, 3.0, 3.0, False, [3.0] * 100)
    free = judge("fp32", GOOD, facts, MANY)
    assert (free.verdict, free.budget, free.bound, free.proved) == ("pass", None, None, False)
    assert judge("fp32", GOOD, facts, MANY, max_drop=2.0).verdict == "fail"


def test_an_undefined_drop_fails():
    facts = MetricFacts("mae", 0.0, math.inf, math.inf, False, [math.inf] * 100)
    assert judge("fp32", GOOD, facts, MANY, max_drop=1.0).verdict == "fail"
    facts = MetricFacts("mae", 0.0, math.nan, math.nan, False, [math.nan] * 100)
    assert judge("fp32", GOOD, facts, MANY, max_drop=1.0).verdict == "fail"


def test_limits_are_data():
    assert Limits.from_dict(Limits().to_dict()) == Limits()
    changed = Limits.from_dict({"fp32": {"rel_l2": 0.5}, "min_samples": 5})
    assert changed.fp32.rel_l2 == 0.5
    assert changed.fp32.cosine == Limits().fp32.cosine
    few = SampleFacts("npz", 5, 5)
    assert judge("fp32", output(rel_l2=0.4), top1(n=5), few, limits=changed).verdict == "pass"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"fp23": {}}, "LPT-LIMIT-001"),
        ({"fp32": {"rel": 1}}, "LPT-LIMIT-001"),
        ({"fp32": 3}, "LPT-LIMIT-001"),
        ([1], "LPT-LIMIT-001"),
        ({"fp32": {"rel_l2": "1"}}, "LPT-LIMIT-002"),
        ({"fp32": {"rel_l2": -1}}, "LPT-LIMIT-002"),
        ({"fp32": {"cosine": 1.5}}, "LPT-LIMIT-002"),
        ({"confidence": 1.0}, "LPT-LIMIT-002"),
        ({"confidence": math.nan}, "LPT-LIMIT-002"),
        ({"min_samples": 0}, "LPT-LIMIT-002"),
        ({"min_samples": 3.5}, "LPT-LIMIT-002"),
        ({"tail_share": True}, "LPT-LIMIT-002"),
    ],
)
def test_bad_limits(data, code):
    with pytest.raises(UsageError) as caught:
        Limits.from_dict(data)
    assert caught.value.code == code


def test_classes_of_precisions():
    assert [precision_class(p) for p in ("fp32", "FP16", "bfloat16", "int8", "fp8", "auto")] == [
        "fp32", "half", "half", "compressed", "compressed", "compressed"]  # fmt: skip


def test_a_metric_on_noise_decides_nothing_and_numeric_limits_still_do():
    noise = SampleFacts("random", 1000, 1000)
    lost = judge("int8", output(), top1(worse=60), noise)
    assert lost.verdict == "weak"
    assert "random" in lost.why
    far = judge("int8", output(rel_l2=0.5), top1(), noise)
    assert far.verdict == "fail"
