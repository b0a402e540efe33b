#!/usr/bin/env python3
"""Builds the wheels of all first-party distributions of this tree into dist/."""

from __future__ import annotations

from devtools.console import fail_cleanly, say
from devtools.wheels import build_all


def main() -> None:
    """Builds what is out of date and lists the wheels."""
    for wheel in build_all().values():
        say(f"dist/{wheel.path.name}")


if __name__ == "__main__":
    fail_cleanly(main)
