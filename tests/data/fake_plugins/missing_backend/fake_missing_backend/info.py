"""Static description."""

from lepton_core.capabilities import Backend, TargetInfo

INFO = TargetInfo(
    id="missing-backend",
    title="Missing backend",
    distribution="fake-missing-backend",
    backends=(Backend("nowhere", ("a-package-that-is-nowhere",), pip="nowhere[cpu]"),),
)
