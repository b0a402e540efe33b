"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="new-spec",
    title="New spec",
    distribution="fake-new-spec",
    spec_version=99,
)
