"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="assert-at-import",
    title="Assert at import",
    distribution="fake-assert-at-import",
)
