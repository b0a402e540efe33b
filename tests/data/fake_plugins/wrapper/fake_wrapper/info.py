"""Static description."""

from lepton_core.capabilities import ExtensionInfo

INFO = ExtensionInfo(
    id="wrapper",
    title="Wrapper",
    distribution="fake-wrapper",
    always=True,
)
