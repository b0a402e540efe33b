"""Static description."""

from lepton_core.capabilities import FULL, Edge, Opens, TargetInfo

INFO = TargetInfo(
    id="faulty",
    title="Faulty target",
    distribution="fake-faulty",
    edges=(Edge("fake-graph", "faulty", precisions=("fp32", "fp16")),),
    opens=(Opens("faulty"),),
    capabilities={"convert": FULL, "open": FULL, "precision.fp16": FULL},
    artifact="faulty",
    precisions=("fp32", "fp16"),
    devices=("cpu", "npu", "reference"),
)

__all__ = ["INFO"]
