"""The verbs for a model in use: deploy, adjust, migrate; sessions and their measurement."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any

from lepton_core.types._model import Model, Signature  # noqa: TC001 - as above


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """Put a version under a name.

    Attributes:
        name: Name of the deployment.
        target: Target id.
        alias: Alias to point at the new version (``"production"``).
        kind: ``"embedded"`` or ``"bundle"``.
        engine: Engine that does it; the core's embedded one by default.
        options: Engine-specific options.
    """

    name: str
    target: str
    alias: str | None = None
    kind: str = "embedded"
    engine: str = "embedded"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeployResult:
    """Where a deployment stands: name, version, location."""

    name: str
    version: str
    location: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdjustRequest:
    """Tune a deployment by what it measures.

    Attributes:
        name: Name of the deployment.
        objective: What to improve (``"latency"``, ``"throughput"``, ``"memory"``).
        floor: Lowest accepted value of the accuracy metric, if any.
        engine: Engine that does it; the core's embedded one by default.
        options: Engine-specific options.
    """

    name: str
    objective: str = "latency"
    floor: float | None = None
    engine: str = "embedded"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdjustResult:
    """What was changed, with predicted and measured effect (plain data per change)."""

    name: str
    changes: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return how each change ended, and what facts there are; the rest is in the fields."""
        changes = ", ".join(f"{one.get('id')}: {one.get('state')}" for one in self.changes)
        return f"AdjustResult(name={self.name!r}, changes=[{changes}], facts={sorted(self.facts)})"


@dataclass(frozen=True, slots=True)
class MigrateRequest:
    """Move a deployment to another target.

    Attributes:
        name: Name of the deployment.
        target: Target id to move to.
        engine: Engine that does it; the core's embedded one by default.
        options: Engine-specific options.
    """

    name: str
    target: str
    engine: str = "embedded"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MigrateResult:
    """How a migration ended: ``"done"`` or ``"returned"``, and why."""

    name: str
    outcome: str
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)


EXECUTION_FACTS = "execution_facts"
"""The look at which nodes run where, in which precision."""

MEMORY_PLAN = "plan_memory"
"""What makes later runs faster at the price of memory."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Open a model as a session.

    Attributes:
        target: Target id.
        device: Device of the target string, if any.
        threads: Intra-op threads; ``None`` sizes them to the container.
        reference: Run as the yardstick: strictest arithmetic, no graph optimisation.
        options: Owner-specific options.
        without: What the caller can do without, where a session saves time or memory by leaving
            it out: :data:`EXECUTION_FACTS`, :data:`MEMORY_PLAN`. A hint; owners that know nothing
            of the kind open as ever, and an option that says otherwise prevails.
    """

    target: str
    device: str | None = None
    threads: int | None = None
    reference: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimingPoint:
    """One way of calling a session, to be timed.

    Attributes:
        rows: Rows of a call.
        batch: Rows per run, calls of more are split; ``None`` for never.
        callers: Threads that call at the same time.
        seconds: Time to spend, once the least number of calls is reached.
    """

    rows: int = 1
    batch: int | None = None
    callers: int = 1
    seconds: float = 0.2


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """Run a model over saved samples, in the runtime's own worker process.

    Attributes:
        target: Target id that opens the model.
        samples: Directory written by :func:`lepton_core.samples.save`.
        out: Directory to write one ``.npy`` per output into; empty to keep none.
        device: Device of the target string, if any.
        threads: Intra-op threads; ``None`` sizes them to the container.
        reference: Run as the yardstick.
        latency_seconds: Time to spend on measuring latency; 0 for none.
        timings: Further ways of calling it to be timed, in turn.
        memory: Whether to measure what the open session, its runtime included, adds to the
            process; exact only in a worker process that has done nothing before.
        options: Owner-specific options of the session.
        rival: Another model of the same target to be timed in turns with this one.
        race_seconds: Time to spend on that, about; 0 leaves it to :func:`lepton_core.timing.race`.
        without: What sessions may leave out (:class:`OpenRequest`).
    """

    target: str
    samples: str
    out: str = ""
    device: str | None = None
    threads: int | None = None
    reference: bool = False
    latency_seconds: float = 0.0
    timings: tuple[TimingPoint, ...] = ()
    memory: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rival: Model | None = None
    race_seconds: float = 0.0
    without: tuple[str, ...] = ()


REFERENCE_DEVICE = "reference"
"""The fact ``device`` of a session that interprets a program in place of the device that it is
for: its numbers count, its speed says nothing."""


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What came out of running a model over samples.

    Attributes:
        outputs: Path of each output's ``.npy``, N rows first, in the signature's order.
        signature: Inputs and outputs as the runtime names them.
        facts: What the session tells about itself.
        rows: Number of samples run.
        latency: ``p50_ms``, ``p95_ms``, ``mean_ms``, ``runs``, ``batch``; empty if not measured,
            and where the session's fact ``device`` is :data:`REFERENCE_DEVICE`.
        timings: For each timing point the same and ``rows_per_s``; empty with that device, too.
        memory_bytes: Resident bytes that the session added; 0 if not measured.
        race: ``before_ms`` of the rival, ``after_ms``, ``speedup`` and its ``interval`` at 95 %, by
            calls of one row in turns; empty if there was none, or no time that says anything.
    """

    outputs: Mapping[str, str]
    signature: Signature
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    latency: Mapping[str, float] = field(default_factory=dict)
    timings: tuple[Mapping[str, float], ...] = ()
    memory_bytes: int = 0
    race: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageEvent:
    """A stage that started or finished, for observers.

    Attributes:
        stage: What runs (``"convert"``, ``"open"``, ``"evaluate"``, …).
        owner: Plugin id that does it.
        target: Target id, if the stage is for one.
        digest: Digest of the model that goes in.
        status: ``"started"``, ``"ok"`` or ``"failed"``.
        seconds: Wall-clock duration, once finished.
        error_code: Code of the error, if it failed.
    """

    stage: str
    owner: str
    target: str = ""
    digest: str = ""
    status: str = "started"
    seconds: float = 0.0
    error_code: str | None = None


__all__ = [
    "AdjustRequest",
    "AdjustResult",
    "DeployRequest",
    "DeployResult",
    "EvaluateRequest",
    "EvaluateResult",
    "MigrateRequest",
    "MigrateResult",
    "OpenRequest",
    "StageEvent",
    "TimingPoint",
]
