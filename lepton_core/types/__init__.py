"""The nouns of lepton: models, targets, variants, and one request and result per verb.

Everything here is a frozen dataclass of plain data (strings, numbers, tuples, mappings), so it
crosses process borders and lands in JSON unchanged (:mod:`lepton_core.codec`). Growth happens
here, as new fields with defaults; hook signatures stay as they are.
"""

from __future__ import annotations

from lepton_core.types._making import (
    AdaptRequest,
    AdaptResult,
    ConvertRequest,
    ConvertResult,
    OptimizeRequest,
    OptimizeResult,
    PruneRequest,
    RewriteReport,
)
from lepton_core.types._model import (
    Dim,
    Limits,
    LineageStep,
    Model,
    Signature,
    Target,
    TensorSpec,
    Variant,
)
from lepton_core.types._source import (
    CheckRequest,
    CheckResult,
    InspectRequest,
    InspectResult,
    OperatorUse,
    ValueUse,
)
from lepton_core.types._using import (
    EXECUTION_FACTS,
    MEMORY_PLAN,
    REFERENCE_DEVICE,
    AdjustRequest,
    AdjustResult,
    DeployRequest,
    DeployResult,
    EvaluateRequest,
    EvaluateResult,
    MigrateRequest,
    MigrateResult,
    OpenRequest,
    StageEvent,
    TimingPoint,
)

__all__ = [
    "EXECUTION_FACTS",
    "MEMORY_PLAN",
    "REFERENCE_DEVICE",
    "AdaptRequest",
    "AdaptResult",
    "AdjustRequest",
    "AdjustResult",
    "CheckRequest",
    "CheckResult",
    "ConvertRequest",
    "ConvertResult",
    "DeployRequest",
    "DeployResult",
    "Dim",
    "EvaluateRequest",
    "EvaluateResult",
    "InspectRequest",
    "InspectResult",
    "Limits",
    "LineageStep",
    "MigrateRequest",
    "MigrateResult",
    "Model",
    "OpenRequest",
    "OperatorUse",
    "OptimizeRequest",
    "OptimizeResult",
    "PruneRequest",
    "RewriteReport",
    "Signature",
    "StageEvent",
    "Target",
    "TensorSpec",
    "TimingPoint",
    "ValueUse",
    "Variant",
]
