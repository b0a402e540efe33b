#!/usr/bin/env python3
"""Runs ONNX's node tests through the bridge to torch and writes what came out.

Every test of the onnx package whose operators are covered is translated, exported with
torch.export and compared with ONNX's reference; those that onnxruntime can run are compared with it
too, on other numbers. Results go to plugins/lepton-torch/tests/bridge_nodes.json, and from there
onto docs/reference/bridge-tests.md. It takes some minutes; ``--page`` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from devtools.console import fail_cleanly, say
from devtools.projects import ROOT

TESTS = ROOT / "plugins" / "lepton-torch" / "tests"
RESULTS = TESTS / "bridge_nodes.json"
PAGE = ROOT / "docs" / "reference" / "bridge-tests.md"


def main() -> None:
    """Runs the tests, or takes the results that are there, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    import bridge_nodes
    import bridge_page

    if not options.page:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
            failing, held = bridge_nodes.outcomes(bridge_nodes.cases(), export=True)
            found = {
                "failing": failing,
                "held": held,
                "runtime": bridge_nodes.against_runtime(bridge_nodes.cases()),
            }
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        say(f"written: {RESULTS.relative_to(ROOT)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(bridge_page.page(results), encoding="utf-8")
    say(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    fail_cleanly(main)
