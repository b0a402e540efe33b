"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="twin",
    title="Duplicate b",
    distribution="fake-zz-duplicate-b",
)
