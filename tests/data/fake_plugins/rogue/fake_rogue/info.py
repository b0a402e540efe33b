"""Static description."""

from lepton_core.capabilities import Edge, Opens, TargetInfo

INFO = TargetInfo(
    id="rogue",
    title="Rogue",
    distribution="fake-rogue",
    edges=(Edge("rogue-source", "rogue"),),
    opens=(Opens("rogue"),),
    artifact="rogue",
)
