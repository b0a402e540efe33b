"""Misspells a module of the core."""

from lepton_core.capabilitie import TargetInfo

INFO = TargetInfo(id="typo-in-info", title="Typo in info", distribution="fake-typo-in-info")
