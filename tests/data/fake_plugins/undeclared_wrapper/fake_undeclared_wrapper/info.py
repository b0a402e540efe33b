"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="undeclared-wrapper",
    title="Undeclared wrapper",
    distribution="fake-undeclared-wrapper",
)
