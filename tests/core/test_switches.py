"""Options that are on or off."""

from __future__ import annotations

import pytest

from lepton_core.switches import as_switch


@pytest.mark.parametrize("given", [True, 1, "true", "True", " YES ", "on", "1"])
def test_what_is_on(given):
    assert as_switch(given) is True


@pytest.mark.parametrize("given", [False, 0, "false", "No", "off", "0"])
def test_what_is_off(given):
    assert as_switch(given) is False


@pytest.mark.parametrize("given", [None, "", "maybe", 2, 0.5, [], "folder/on"])
def test_what_says_neither(given):
    assert as_switch(given) is None
