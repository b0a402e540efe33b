"""The hooks of the fake target."""

from lepton_core.testing.fake_target import (
    lepton_adapt,
    lepton_adjust,
    lepton_check,
    lepton_convert,
    lepton_deploy,
    lepton_inspect,
    lepton_migrate,
    lepton_open,
    lepton_optimize,
)

__all__ = [
    "lepton_adapt",
    "lepton_adjust",
    "lepton_check",
    "lepton_convert",
    "lepton_deploy",
    "lepton_inspect",
    "lepton_migrate",
    "lepton_open",
    "lepton_optimize",
]
