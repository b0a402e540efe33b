"""What plugins declare."""

from __future__ import annotations

import dataclasses

import pytest

from lepton_core import capabilities
from lepton_core.capabilities import Capability, Opens, PluginInfo, Support, TargetInfo
from lepton_core.catalogue import KNOWN
from lepton_core.installing import install_command


@pytest.mark.parametrize("support", Support)
def test_only_versioned_and_full_count_as_supported(support):
    assert bool(support) is (support in (Support.FULL, Support.VERSIONED))


def test_what_is_not_declared_is_unknown():
    info = PluginInfo("x", "X", "lepton-x", capabilities={"open": capabilities.FULL})
    assert info.capability("open").support is Support.FULL
    assert info.capability("adapt").support is Support.UNKNOWN
    assert not info.capability("adapt").support


def test_opens_format():
    info = TargetInfo("x", "X", "lepton-x", opens=(Opens("a"), Opens("b", 3)))
    assert info.opens_format("b").reference_rank == 3
    assert info.opens_format("c") is None


@pytest.mark.parametrize(
    "cls",
    [c for n in capabilities.__all__ if dataclasses.is_dataclass(c := getattr(capabilities, n))
     and isinstance(c, type)],
    ids=lambda c: c.__name__,
)  # fmt: skip
def test_declarations_are_frozen(cls):
    assert cls.__dataclass_params__.frozen
    assert cls.__slots__ is not None


def test_capability_defaults():
    assert Capability(Support.VERSIONED, ">=1.2").note == ""


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda k: k.id)
def test_catalogue_says_how_to_get_what_exists(known):
    assert bool(known.pip) == bool(known.support)
    wanted = install_command(known.pip) if known.pip else "planned"
    assert wanted in known.remedy
