"""What the benchmarks say: a missed goal, or one that nothing was measured for, is no success."""

import importlib
import sys

import pytest
from devtools.projects import ROOT


@pytest.fixture
def bench(monkeypatch):
    """Imports a script of tests/bench."""
    pytest.importorskip("numpy")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(ROOT / "tests" / "bench") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def trials(kept, exceeded=0, refused=0):
    """Trials of which so many kept the budget, exceeded it, or were refused."""
    done = [{"exceeded": i < exceeded, "proved": True, "size": 0.3} for i in range(kept + exceeded)]
    return done + [{"refused": "LPT-OPT-030"}] * refused


GOOD = [{"ratio": 1.0}] * 8


@pytest.mark.parametrize(
    ("searched", "optima", "broken"),
    [
        (trials(95, 5), GOOD, set()),
        (trials(90, 0, 10), GOOD, set()),
        (trials(95), [*GOOD, {"outcome": "nothing accepted"}], set()),
        (trials(0, 0, 100), GOOD, {"budgets", "refusals"}),
        (trials(45, 5, 50), GOOD, {"budgets", "refusals"}),
        (trials(94, 6), GOOD, {"budgets"}),
        (trials(89, 0, 11), GOOD, {"refusals"}),
        (trials(100), [*GOOD, {"ratio": 1.06}], {"optima"}),
        (trials(100), [*GOOD, {"outcome": "not found"}], {"optima"}),
        (trials(100), [], {"compared"}),
        (trials(100), [{"outcome": "nothing accepted"}] * 8, {"compared"}),
    ],
)
def test_searches_hold_only_if_they_found_something_within_the_budget(
    bench, searched, optima, broken
):
    found = bench("budgets").summary(searched, optima, 1.0)
    assert {name for name, held in found["held"].items() if not held} == broken
    assert found["ok"] is not bool(broken)


@pytest.mark.parametrize(
    ("name", "plain", "recovered", "word"),
    [
        ("rescaled", 0.5, 0.005, "met"),
        ("rescaled", 0.5, 0.006, "MISSED"),
        ("rescaled", 0.5, None, "MISSED"),
        ("rescaled", 0.19, 0.0, "MISSED: int8 as it is no longer loses 20 points"),
        ("outliers", 0.5, 0.004, "MISSED"),
        ("outliers", 0.1, 0.004, "MISSED"),
        ("outliers", 0.1, 0.003, "met"),
        ("cnn", 0.0, 0.004, "MISSED"),
        ("tabular", 0.3, 0.004, "met"),
        ("lstm", 0.1, 0.1, "no goal"),
    ],
)
def test_recovery_is_judged_whatever_int8_loses(bench, name, plain, recovered, word):
    pytest.importorskip("torch")
    result = {"int8": {"loss": plain}}
    if recovered is not None:
        result["recovered"] = {"loss": recovered}
    assert bench("recovery_cases").verdict(name, result) == word


@pytest.mark.parametrize(
    ("met", "memory", "holds"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_memory_of_calibration_is_a_goal(bench, met, memory, holds):
    report = {"onnxruntime": {"met": True}, "openvino": {"met": met}, "memory_met": memory}
    assert bench("int8_digits").holds(report) is holds


def test_intervals_are_those_of_the_paper(bench):
    loss, low, high = bench("_paired").interval(12, 4, 500)
    assert loss == pytest.approx(0.016)
    assert (low, high) == pytest.approx((8 / 502 - 0.016038, 8 / 502 + 0.016038), abs=1e-5)
