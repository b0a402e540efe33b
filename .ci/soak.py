#!/usr/bin/env python3
"""Repeats unit, property and contract tests with fresh seeds until the time is up.

Property tests find new examples with every seed. The run stops at the first failure and prints
the command that repeats it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from devtools.console import SetupError, fail_cleanly, run, say
from devtools.projects import ROOT

# pytest's exit status when no test was selected.
_NOTHING_COLLECTED = 5


def main() -> None:
    """Runs rounds until the time is up or one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long to go on (30)")
    parser.add_argument("--seed", type=int, help="run one round with this seed")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    rounds = 0
    while True:
        seed = options.seed if options.seed is not None else secrets.randbelow(2**32)
        rounds += 1
        say(f"==> round {rounds}, seed {seed}, {max(0, end - time.monotonic()) / 60:.1f} min left")
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"--hypothesis-seed={seed}"]
        status = run([*command, "-m", "not integration and not conformance"], cwd=ROOT)
        if status == _NOTHING_COLLECTED:
            raise SetupError("there are no tests to repeat")
        if status:
            again = f"{sys.executable} .ci/soak.py --seed {seed}"
            raise SetupError(f"round {rounds} failed (see above); to repeat it:\n    {again}")
        if options.seed is not None or time.monotonic() >= end:
            break
    say(f"{rounds} rounds without a failure")


if __name__ == "__main__":
    fail_cleanly(main)
