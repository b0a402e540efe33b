"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="twin",
    title="Duplicate a",
    distribution="fake-duplicate-a",
)
