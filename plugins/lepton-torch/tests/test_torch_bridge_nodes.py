"""ONNX's backend node tests through the bridge; what fails is listed with its reason.

A listed case that passes fails the test, so the list stays true. Here the cases run on torch
directly; ``make conformance`` exports each with torch.export first, expanded forms included.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import pytest

from lepton_torch._bridge import catalogue

_spec = importlib.util.spec_from_file_location(
    "bridge_nodes", Path(__file__).with_name("bridge_nodes.py")
)
nodes = importlib.util.module_from_spec(_spec)
sys.modules["bridge_nodes"] = nodes
_spec.loader.exec_module(nodes)

FAILING = json.loads(Path(__file__).with_name("bridge_nodes.json").read_text())
OUTSIDE = ("torch has no ", "opset ")
"""Reasons that lie outside of what the bridge is for: types that torch lacks, other opsets."""


def wrong(names, export):
    """Return the cases that end otherwise than the list says."""
    found = {}
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # values overflow on purpose
                nodes.run(nodes.cases()[name], export)
        except Exception as error:
            if name not in FAILING:
                found[name] = f"{type(error).__name__}: {error}"[:300]
        else:
            if name in FAILING:
                found[name] = f"passes, though listed: {FAILING[name]}"
    return found


@pytest.mark.xdist_group("bridge-nodes")
@pytest.mark.parametrize("family", catalogue.FAMILIES)
def test_node_tests_of_onnx(family):
    names = [
        name
        for name, case in nodes.cases().items()
        if nodes.family(case) == family and not name.endswith("_expanded")
    ]
    assert names
    assert wrong(names, export=False) == {}


@pytest.mark.conformance
@pytest.mark.timeout(1800)
def test_every_node_test_of_onnx_after_export():
    assert wrong(nodes.cases(), export=True) == {}


def test_share_of_node_tests_that_pass():
    """The goal is 95 % of the cases within the bridge's opsets and torch's types."""
    cases = set(nodes.cases())
    assert set(FAILING) <= cases
    inside = {name for name in cases if not FAILING.get(name, "").startswith(OUTSIDE)}
    failed = inside & set(FAILING)
    assert 1 - len(failed) / len(inside) >= 0.95, (len(failed), len(inside))
