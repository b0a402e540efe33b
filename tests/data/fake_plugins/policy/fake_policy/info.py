"""Static description."""

from lepton_core.capabilities import FULL, ExtensionInfo

INFO = ExtensionInfo(
    id="acme-policy",
    title="Acme policy",
    distribution="fake-policy",
    capabilities={"adjust": FULL},
    isolated=("adjust",),
    engine="acme-policy",
)
