"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="odd-entry",
    title="Odd entry",
    distribution="fake-odd-entry",
)
