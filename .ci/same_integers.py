#!/usr/bin/env python3
"""Measures where runtimes compute other integers than the recipe means, and writes it down.

Small networks are trained on scikit-learn's digits, calibrated and lowered to every runtime
that is here. Each layer is fed the reference's integers, and each network runs on its own. Results
go to tests/conformance/same_integers/results.json, and from there onto
docs/reference/same-integers.md. It takes some minutes; ``--only NETWORK`` measures one of them
again and keeps the results of the others, ``--page`` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from devtools.console import fail_cleanly, say
from devtools.projects import ROOT

TESTS = ROOT / "tests" / "conformance"
RESULTS = TESTS / "same_integers" / "results.json"
PAGE = ROOT / "docs" / "reference" / "same-integers.md"


def main() -> None:
    """Measures, or takes the results that are there, and writes the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--only", action="append", metavar="NETWORK", help="measure this one")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from same_integers import page

    if not options.page:
        from same_integers import campaign

        names = options.only or list(campaign.NETWORKS)
        with tempfile.TemporaryDirectory(prefix="same-integers-") as folder:
            found = campaign.results(Path(folder), names, say=say)
        if options.only:
            found = campaign.merged(json.loads(RESULTS.read_text(encoding="utf-8")), found)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"written: {RESULTS.relative_to(ROOT)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.filled(text, results), encoding="utf-8")
    say(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    fail_cleanly(main)
