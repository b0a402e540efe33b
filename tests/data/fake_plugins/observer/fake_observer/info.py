"""Static description."""

from lepton_core.capabilities import ExtensionInfo

INFO = ExtensionInfo(
    id="observer",
    title="Observer",
    distribution="fake-observer",
    always=True,
)
