"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="exit-at-import",
    title="Exit at import",
    distribution="fake-exit-at-import",
)
