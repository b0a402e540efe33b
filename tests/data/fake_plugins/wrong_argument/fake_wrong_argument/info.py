"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="wrong-argument",
    title="Wrong argument",
    distribution="fake-wrong-argument",
)
