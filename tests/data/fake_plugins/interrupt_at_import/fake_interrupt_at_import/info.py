"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="interrupt-at-import",
    title="Interrupt at import",
    distribution="fake-interrupt-at-import",
)
