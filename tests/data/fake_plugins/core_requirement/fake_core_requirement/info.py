"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="core-requirement",
    title="Core requirement",
    distribution="fake-core-requirement",
)
