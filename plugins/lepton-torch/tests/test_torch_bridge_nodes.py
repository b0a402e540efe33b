"""ONNX's backend node tests through the bridge, against ONNX's reference and onnxruntime.

What does not pass is listed with its reason in ``bridge_nodes.json``, which ``.ci/bridge.py``
writes. A listed case that passes fails the test, so the list stays true. Here the cases run on
torch directly; ``make conformance`` exports each with torch.export first, expanded forms included.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lepton_torch._bridge import catalogue


def _module(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


nodes = _module("bridge_nodes")
RESULTS = json.loads(Path(__file__).with_name("bridge_nodes.json").read_text())
FAILING = RESULTS["failing"]
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "bridge-tests.md"
SAMPLE = 3
"""Cases of an operator that are compared with onnxruntime by ``make test``."""
pytestmark = pytest.mark.xdist_group("bridge-nodes")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values overflow on purpose
        yield


def wrong(names, export):
    """Return the cases that end otherwise than the list says, and how many were held constant."""
    found = {name: nodes.cases()[name] for name in names}
    failing, held = nodes.outcomes(found, export)
    listed = {name: reason for name, reason in FAILING.items() if name in found}
    odd = {
        name: (failing.get(name, "passes"), listed.get(name, "not listed"))
        for name in {**failing, **listed}
        if failing.get(name) != listed.get(name)
    }
    return odd, held


@pytest.mark.parametrize("family", catalogue.FAMILIES)
def test_node_tests_of_onnx(family):
    names = [
        name
        for name, case in nodes.cases().items()
        if nodes.family(case) == family and not name.endswith("_expanded")
    ]
    assert names
    odd, _ = wrong(names, export=False)
    assert odd == {}


@pytest.mark.parametrize("family", catalogue.FAMILIES)
def test_a_sample_agrees_with_onnxruntime(family):
    seen = Counter()
    sample = {}
    for name, case in nodes.cases().items():
        subject = nodes.subject(case)
        if nodes.family(case) == family and seen[subject] < SAMPLE:
            seen[subject] += 1
            sample[name] = case
    found = nodes.against_runtime(sample)
    assert not set(found["differs"]) - set(RESULTS["runtime"]["differs"])
    assert found["same"]


@pytest.mark.conformance
@pytest.mark.timeout(3600)
def test_every_node_test_of_onnx_after_export():
    assert wrong(nodes.cases(), export=True) == ({}, RESULTS["held"])


@pytest.mark.conformance
@pytest.mark.timeout(1800)
def test_every_node_test_agrees_with_onnxruntime():
    assert nodes.against_runtime(nodes.cases()) == RESULTS["runtime"]


def test_lowest_numbers_stand_for_infinity_in_attention_alone():
    lowest = np.array([np.finfo(np.float32).min])
    infinite = np.array([-np.inf], np.float32)
    nodes._compare_numbers(infinite, lowest, masks=True)
    with pytest.raises(AssertionError):
        nodes._compare_numbers(infinite, lowest, masks=False)


def test_a_mistake_of_the_comparison_is_no_gap_of_onnxruntime():
    case = nodes.cases()["test_relu"]
    assert nodes.compare_with_runtime(case)
    with pytest.raises(ValueError, match="Required inputs"):
        nodes._of_runtime(case.model, {})


def test_share_of_node_tests_that_pass():
    """The goal is 95 % of the cases within the bridge's opsets and torch's types."""
    cases = set(nodes.cases())
    assert set(FAILING) <= cases
    inside = {name for name in cases if not FAILING.get(name, "").startswith(nodes.OUTSIDE)}
    failed = inside & set(FAILING)
    assert sum(RESULTS["held"].values()) == len(cases) - len(FAILING)
    assert 1 - len(failed) / len(inside) >= 0.98, (len(failed), len(inside))
    assert len(RESULTS["runtime"]["same"]) >= 150


def test_the_page_says_what_the_results_say():
    page = _module("bridge_page").page(RESULTS)
    assert page == PAGE.read_text(), "run .ci/bridge.py --page"
