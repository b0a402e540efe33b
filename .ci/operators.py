#!/usr/bin/env python3
"""Runs ONNX's node tests on every target, through lepton's hooks, and writes what came out.

Tests of the operators that the bridge to torch covers are converted to each target in fp32, opened
on its runtime (Core ML: the reference interpreter) and compared with ONNX's reference. Results go
to tests/conformance/operator_corpus/results.json, and from there onto
docs/reference/operators-by-target.md. It takes about an hour, and goes on where it was stopped;
``--only OPERATOR`` measures some again and keeps the others' results, ``--page`` only writes the
page.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import zip_longest
from pathlib import Path

from devtools.console import fail_cleanly, say
from devtools.projects import ROOT

TESTS = ROOT / "tests" / "conformance"
RESULTS = TESTS / "operator_corpus" / "results.json"
PAGE = ROOT / "docs" / "reference" / "operators-by-target.md"
JOURNAL = ROOT / "out" / "operators.jsonl"


def main() -> None:
    """Runs the tests, or takes the results that are there, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--only", action="append", metavar="OPERATOR", help="run this one's tests")
    parser.add_argument("--target", action="append", help="run on this one; all by default")
    parser.add_argument("--journal", type=Path, default=JOURNAL, help="file of a run under way")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))

    if not options.page:
        measure(options)
    from operator_corpus import page

    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page.page(results), encoding="utf-8")
    say(f"written: {PAGE.relative_to(ROOT)}")


def measure(options: argparse.Namespace) -> None:
    """Runs the tests that are asked for and writes the results."""
    from operator_corpus import campaign, corpus

    tests = corpus.sample()
    chosen = [tests[operator] for operator in options.only or tests]
    targets = options.target or campaign.TARGETS
    rounds = [name for row in zip_longest(*chosen) for name in row if name]
    asked = [(name, target) for name in rounds for target in targets]
    options.journal.parent.mkdir(parents=True, exist_ok=True)
    found = campaign.run(asked, options.journal, say=say)
    made = campaign.results(found, tests, corpus.PER_OPERATOR)
    if options.only or options.target:
        made = campaign.merged(json.loads(RESULTS.read_text(encoding="utf-8")), made, asked)
    RESULTS.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say(f"written: {RESULTS.relative_to(ROOT)}")
    options.journal.unlink()


if __name__ == "__main__":
    fail_cleanly(main)
