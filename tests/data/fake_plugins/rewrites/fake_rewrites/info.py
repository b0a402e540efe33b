"""Static description: one rewrite for graphs of the fake target."""

from lepton_core.capabilities import ExtensionInfo, Rewrite

INFO = ExtensionInfo(
    id="rewrites",
    title="Rewrites",
    distribution="fake-rewrites",
    rewrites=(
        Rewrite(
            "drop-relu",
            "drops what nobody needs",
            ("fake-graph",),
            "fake_rewrites.work:drop_relu",
            removes=("relu",),
        ),
    ),
)
