"""Static description."""

from lepton_core.capabilities import Backend, TargetInfo

INFO = TargetInfo(
    id="missing-dependency",
    title="Missing dependency",
    distribution="fake-missing-dependency",
    backends=(
        Backend(
            "a_package_that_is_nowhere",
            ("another-distribution-of-it", "numpy"),
            pip="a-package[that]",
        ),
    ),
)
