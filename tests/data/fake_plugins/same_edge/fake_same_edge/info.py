"""Static description."""

from lepton_core.capabilities import Edge, SourceFormat, TargetInfo

INFO = TargetInfo(
    id="same-edge",
    title="Same edge",
    distribution="fake-same-edge",
    sources=(SourceFormat("fake-graph", "Claimed", suffixes=(".fake",)),),
    edges=(Edge("fake-graph", "fake"), Edge("elsewhere", "same-edge")),
    artifact="same-edge",
)
