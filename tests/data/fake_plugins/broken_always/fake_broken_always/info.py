"""Static description."""

from lepton_core.capabilities import ExtensionInfo

INFO = ExtensionInfo(
    id="broken-always",
    title="Broken always",
    distribution="fake-broken-always",
    always=True,
)
