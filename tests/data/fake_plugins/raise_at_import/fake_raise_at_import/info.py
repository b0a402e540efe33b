"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="raise-at-import",
    title="Raise at import",
    distribution="fake-raise-at-import",
)
