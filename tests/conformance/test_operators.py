"""ONNX's node tests on every target: the page follows from the results, and a sample repeats."""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).with_name("operator_corpus")
RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "operators-by-target.md"
SAMPLE = 24
"""Tests that are run again on each target, at even distances among all."""
LEAST = {"onnxruntime": 0.98, "openvino": 0.95, "tflite": 0.84, "coreml": 0.85}
"""Share of tests that has to pass."""


def module(name):
    """Return a module of the package beside this file, which tests cannot import by name."""
    if "operator_corpus" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "operator_corpus", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        sys.modules["operator_corpus"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"operator_corpus.{name}")


page = module("page")


def test_the_page_says_what_the_results_say():
    assert page.page(RESULTS) == PAGE.read_text(encoding="utf-8"), "run .ci/operators.py --page"


def test_the_results_are_of_all_operators_and_fit_together():
    tests = {name for names in RESULTS["tests"].values() for name in names}
    assert all(0 < len(names) <= RESULTS["most"] for names in RESULTS["tests"].values())
    assert RESULTS["tests"].keys() == RESULTS["whole"].keys()
    for target, least in LEAST.items():
        failing = RESULTS["failing"][target]
        assert failing.keys() <= tests
        assert {outcome for outcome, _, _ in failing.values()} <= page.OUTCOMES.keys()
        assert 1 - len(failing) / len(tests) >= least, target
        assert not [n for n, (outcome, _, _) in failing.items() if outcome == "crash"], target
        passed = tests - failing.keys()
        assert all(set(names) <= passed for names in RESULTS["held"][target].values())


@pytest.mark.parametrize(
    ("why", "says"),
    [
        (("check", None, "x: float16[2] is of a kind that it cannot pass.; y: float16[2] is of a "
          "kind that it cannot pass."), "sessions do not pass float16"),
        (("convert", "LPT-CONV-504", "coremltools 9.0 has no translation of the operator 'det' "
          "Unsupported fx node"), "coremltools has no translation of `det`"),
        (("convert", "LPT-CONV-402", "litert-torch 0.10.0 cannot convert 'tfl.add' ValueError: of "
          "type uint8"), "litert-torch cannot convert `tfl.add` of integers of 8 or 16 bits"),
        (("crash", None, "the process ended with -11"), "**crash**: the process ended with -11"),
    ],
)  # fmt: skip
def test_reasons_are_told_in_words(why, says):
    assert page.in_words(*why) == says


@pytest.mark.conformance
@pytest.mark.timeout(3600)
def test_a_sample_ends_as_the_results_say(tmp_path):
    """What fails is to fail in the same way, and what passes is to pass."""
    campaign, corpus = module("campaign"), module("corpus")
    assert corpus.sample(RESULTS["most"]) == RESULTS["tests"]
    assert {operator: len(names) for operator, names in corpus.tests().items()} == RESULTS["whole"]
    names = [name for names in RESULTS["tests"].values() for name in names]
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, SAMPLE).astype(int)]
    odd = {}
    bench = campaign.Bench(tmp_path)
    try:
        for name in chosen:
            for target in campaign.TARGETS:
                found = bench.outcome(name, target)["outcome"]
                listed = RESULTS["failing"][target].get(name, [campaign.PASS])[0]
                if found != listed:
                    odd[name, target] = (found, listed)
    finally:
        bench.close()
    assert odd == {}


@pytest.mark.conformance
def test_a_process_that_ends_is_an_outcome(tmp_path, monkeypatch):
    """Another one goes on with the tests that are left, and a journal keeps what was done."""
    campaign = module("campaign")
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for the process
    runner = campaign.Runner()
    try:
        runner._start()
        runner._process.kill()
        assert runner.outcome("test_relu", "onnxruntime")["outcome"] == campaign.CRASH
        assert runner.outcome("test_relu", "onnxruntime")["outcome"] == campaign.PASS
    finally:
        runner.close()
    assert not multiprocessing.active_children()
    journal = tmp_path / "journal.jsonl"
    first = campaign.run([("test_relu", "onnxruntime")], journal)
    monkeypatch.setattr(campaign, "Runner", None)  # nothing is left to be run
    with pytest.raises(TypeError):
        campaign.run([("test_abs", "onnxruntime")], journal)
    monkeypatch.undo()
    assert campaign.run([("test_relu", "onnxruntime")], journal) == first


def test_what_differs_from_the_reference_is_found():
    from types import SimpleNamespace

    difference = module("compare").difference
    case = SimpleNamespace(rtol=1e-3, atol=1e-7)
    one = np.array([1.0, 2.0], np.float32)
    assert difference([one], [one], case) is None
    assert difference([one * 1.0005], [one], case) is None
    assert "Mismatched" in difference([one * 1.01], [one], case)
    assert "float64" in difference([one.astype("f8")], [one], case)
    assert "shape" in difference([one[None]], [one], case)
    assert "outputs" in difference([one, one], [one], case)
    half = one.astype(np.float16)
    assert difference([np.nextafter(half, np.float16(9))], [half], case) is None
    assert difference([np.array([1, 2])], [np.array([1, 3])], case) is not None
