"""Static description."""

from lepton_core.capabilities import FULL, Edge, Opens, TargetInfo

INFO = TargetInfo(
    id="crasher",
    title="Crasher",
    distribution="fake-crasher",
    edges=(Edge("fake-graph", "crasher"),),
    opens=(Opens("crasher"),),
    capabilities={"convert": FULL, "open": FULL},
    artifact="crasher",
)
