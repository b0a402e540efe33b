"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="somebody-else",
    title="Other id",
    distribution="fake-other-id",
)
