"""Freed memory goes back to the system."""

from __future__ import annotations

import sys

import pytest

from lepton_core import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_was_freed_is_given_back():
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    kept = [bytes(bytearray(b"x" * 60_000)) for _ in range(2000)]  # too small to be mapped alone
    last = kept[-1]
    before = resident()
    del kept
    memory.trim()
    assert last
    assert resident() < before - 60_000_000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    assert memory.trim() is False
