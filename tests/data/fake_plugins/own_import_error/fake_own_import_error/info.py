"""Static description."""

from lepton_core.capabilities import TargetInfo

INFO = TargetInfo(
    id="own-import-error",
    title="Own import error",
    distribution="fake-own-import-error",
)
