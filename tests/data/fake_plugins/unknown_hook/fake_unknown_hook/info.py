"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="unknown-hook",
    title="Unknown hook",
    distribution="fake-unknown-hook",
)
