"""The nouns of lepton: models, targets, variants, and one request and result per verb.

Everything here is a frozen dataclass of plain data (strings, numbers, tuples, mappings), so it
crosses process borders and lands in JSON unchanged (:mod:`lepton_core.codec`). Growth happens
here, as new fields with defaults; hook signatures stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core.capabilities import Constraints  # noqa: TC001 - as above

if TYPE_CHECKING:
    from lepton_core.passport import Passport

Dim = int | str | None
"""A dimension: a number, a named symbol (``"batch"``), or unknown."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output.

    Attributes:
        name: Name that arrays are passed and returned under.
        dtype: NumPy dtype name (``"float32"``, ``"int64"``, ``"bool"``).
        shape: Dimensions; strings are symbols shared within the signature.
        layout: Axis letters if known (``"NCHW"``).
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    layout: str | None = None

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        left = ", ".join(map(str, self.inputs))
        return f"({left}) -> ({', '.join(map(str, self.outputs))})"


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One step of a model's history.

    Attributes:
        step: What was done (``"materialise"``, ``"convert torch.export -> pivot"``).
        owner: Distribution and version that did it (``"lepton-torch 0.1.0"``).
        parent: Digest of the model that went in, ``None`` for an original.
        request: The request as plain data.
        tools: Versions of the packages that did the work.
    """

    step: str
    owner: str
    parent: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """An immutable handle on one artifact.

    Attributes:
        format: Format id (``"onnx"``, ``"torch.factory"``, ``"torch.export"``, ``"pivot"``, a
            target's artifact format).
        path: Absolute path of the file or directory, or a name (hub cache).
        entry: What to call inside it (``"net"`` of ``digits.py:net``), if anything.
        signature: Named inputs and outputs; ``None`` until the model has been read.
        digest: ``"sha256:<hex>"`` over the artifact's bytes; ``""`` until it has been read.
        lineage: Steps that led here, oldest first.
        metadata: Preprocessing contract, labels, opset, and other facts (JSON types).
    """

    format: str
    path: str
    entry: str | None = None
    signature: Signature | None = None
    digest: str = ""
    lineage: tuple[LineageStep, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def evolve(self, **changes: Any) -> Model:  # noqa: ANN401 - mirrors dataclasses.replace
        """Return a copy with *changes*."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Target:
    """A target as users write it: ``openvino``, ``tflite:android-arm64``."""

    id: str
    device: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Split ``id[:device]``.

        Raises:
            UsageError: The text has no id.
        """
        name, _, device = text.strip().partition(":")
        if not name:
            from lepton_core.errors import UsageError

            raise UsageError(
                "LPT-USE-001",
                f"{text!r} is not a target",
                remedy="Write a target as NAME or NAME:DEVICE; `lepton targets` lists them.",
            )
        return cls(name, device or None)

    def __str__(self) -> str:
        return f"{self.id}:{self.device}" if self.device else self.id


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a worker's job.

    Attributes:
        seconds: Wall-clock limit, ``None`` for none.
        memory_bytes: Resident memory of the worker and its children, ``None`` for none.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


# --- inspect and check -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """What to find out about a source without converting it.

    Attributes:
        operators: Whether to list operators (may take seconds), not just the signature.
        values: Whether to list the values inside, where the owner can.
    """

    operators: bool = True
    values: bool = False


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """One operator as a source uses it.

    Attributes:
        name: Qualified name (``"ai.onnx::Conv"``, ``"aten.conv2d.default"``).
        count: How often it stands in the graph.
        where: The user's source line of the first use (``"net.py:31 in forward"``), or a node.
        convertible: Whether the way to the pivot knows it; ``None`` if that is not known.
        note: Why not, or what it will be rewritten to.
    """

    name: str
    count: int
    where: str = ""
    convertible: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ValueUse:
    """One value that an operator inside a model yields.

    Attributes:
        name: Its name.
        dtype: NumPy dtype name; empty if it is not known.
        operator: Type of the operator (``"Conv"``).
        node: Name of the operator.
        inputs: Values that the operator reads, constants left out.
        row_bytes: Estimated bytes per sample.
        output: Whether it is an output of the model.
    """

    name: str
    dtype: str
    operator: str
    node: str = ""
    inputs: tuple[str, ...] = ()
    row_bytes: int = 4
    output: bool = False


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What is known about a source.

    Attributes:
        model: The source with signature, digest and metadata filled in.
        operators: Operators in use.
        domain: Namespace of the operators (``"onnx"``, ``"aten"``).
        parameters: Number of trained values.
        facts: Opset, producer, precision of weights, … (JSON types).
        problems: What would stop a conversion, in words, with the place in the source.
        values: Values that follow from the inputs, in topological order, if they were asked for.
    """

    model: Model
    operators: tuple[OperatorUse, ...] = ()
    domain: str = ""
    parameters: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    values: tuple[ValueUse, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What a target should judge.

    Attributes:
        target: Target id.
        inspection: What is known about the source.
        device: Device of the target string, if any.
    """

    target: str
    inspection: InspectResult
    device: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A target's judgement before anything is converted.

    Attributes:
        verdict: ``"fits"``, ``"needs-rewrite"`` or ``"impossible"``.
        reasons: For the latter two: which rewrite, or why not and where in the source.
        precisions: Precisions that could be built.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


# --- the six verbs and open ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Remove channels from a model until a budget holds, and train what is left.

    Attributes:
        metric: What the budget counts: ``"macs"``, ``"parameters"`` or ``"latency"``.
        share: Share of the original that may be left, between 0 and 1.
        milliseconds: With ``"latency"``, the time of one request in the place of a share.
        importance: ``"taylor"``, ``"activation"``, ``"l2"`` or ``"l1"``; by default taylor with
            samples and l2 without.
        multiple: Widths become multiples of this; by default what the target declares.
        rounds: How often channels are removed and the rest trained.
        epochs: Passes over the rows, all rounds together.
        seconds: Time after which no pass begins, ``None`` for none.
        rows: Rows to train on; by default as many as a calibration takes.
        keep: Weights, or modules that hold them, that keep their width.
        max_drop: Largest accepted loss on the rows held out, in the metric's own unit.
        recipe: Path of a ``pruning.json`` to follow in the place of a budget.
    """

    metric: str = "macs"
    share: float | None = None
    milliseconds: float | None = None
    importance: str = ""
    multiple: int = 0
    rounds: int = 3
    epochs: int = 60
    seconds: float | None = None
    rows: int | None = None
    keep: tuple[str, ...] = ()
    max_drop: float | None = None
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """Fit a model to a target's constraints.

    Attributes:
        target: Target id whose declared constraints apply.
        rewrites: Names of the rewrites to do, needed or not, and no others; empty means those
            that the target needs and those that are done for every target.
        shapes: Fixed sizes by symbolic dimension (``{"batch": 1}``).
        options: Owner-specific options, documented by the owner.
        bounds: Smallest and largest size by symbolic dimension that stays open.
        constraints: Constraints to meet; the target's declared ones if ``None``.
        prune: Channels to remove first, if any.
        samples: Path of a prepared sample file to prune with, if any.
    """

    target: str
    rewrites: tuple[str, ...] = ()
    shapes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    constraints: Constraints | None = None
    prune: PruneRequest | None = None
    samples: str | None = None


@dataclass(frozen=True, slots=True)
class RewriteReport:
    """What became of one rewrite.

    Attributes:
        rewrite: Its name.
        changes: What it changed, one line per place.
        left: What it could not change: the place and why.
        difference: Largest relative L2 difference of an output that it caused on the trial
            inputs; ``None`` if it was not run.
        why: Why it was run, or why not.
    """

    rewrite: str
    changes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    difference: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """An adapted model and what changed.

    Attributes:
        model: The adapted model, or the one that went in if nothing had to be changed.
        changes: One line per change: the rewrite, what it did where, and what that does to
            numbers.
        warnings: What the user should know.
        considered: Every rewrite for this kind of model, run or not.
        facts: What else was found out: ``pruning`` is the receipt of what was pruned (JSON types).
    """

    model: Model
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    considered: tuple[RewriteReport, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """Walk one declared edge, or (through the façade) a planned path of them.

    Attributes:
        target: Target id the result is for.
        to_format: Format to produce; empty means the target's artifact format.
        precision: ``"fp32"``, ``"fp16"``, …; how the artifact is stored.
        device: Device of the target string, if any.
        recipe: Path of a compression recipe to lower, if any.
        opset: ONNX opset of the pivot; the owner may need another and records it.
        dynamic_batch: Whether the first dimension of inputs should stay symbolic.
        options: Owner-specific options, documented by the owner.
    """

    target: str
    to_format: str = ""
    precision: str = "fp32"
    device: str | None = None
    recipe: str | None = None
    opset: int = 21
    dynamic_batch: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """A converted model.

    Attributes:
        model: The result, with signature, digest and lineage.
        facts: What the converter found out or decided (opset read back, values kept in
            float32, …), JSON types.
        warnings: What the user should know.
    """

    model: Model
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizeRequest:
    """Compress a model under a budget.

    Attributes:
        target: Target id it is for (its schemes apply).
        engine: Engine that does it; ours by default.
        precision: ``"int8"``, ``"int8-weight"``, ``"int4"``, ``"auto"``, ….
        max_drop: Largest accepted loss, in the metric's own unit.
        samples: Path of a prepared sample file for calibration, if any.
        recipe: Path of a recipe to reproduce instead of searching.
        options: Engine-specific options, documented by the engine.
        max_size: Largest accepted size of the artifact: in bytes, or up to 1 as a share of the
            uncompressed one's; engines that do not search refuse it.
    """

    target: str
    engine: str = "compress"
    precision: str = "int8"
    max_drop: float | None = None
    samples: str | None = None
    recipe: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    max_size: float | None = None


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """A compressed model, the recipe that reproduces it, and why this one."""

    model: Model
    recipe: str | None = None
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


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
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Open a model as a session.

    Attributes:
        target: Target id.
        device: Device of the target string, if any.
        threads: Intra-op threads; ``None`` sizes them to the container.
        reference: Run as the yardstick: strictest arithmetic, no graph optimisation.
        options: Owner-specific options.
    """

    target: str
    device: str | None = None
    threads: int | None = None
    reference: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


# --- running a model over samples ------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What came out of running a model over samples.

    Attributes:
        outputs: Path of each output's ``.npy``, N rows first, in the signature's order.
        signature: Inputs and outputs as the runtime names them.
        facts: What the session tells about itself.
        rows: Number of samples run.
        latency: ``p50_ms``, ``p95_ms``, ``mean_ms``, ``runs``, ``batch``; empty if not measured.
        timings: For each timing point the same and ``rows_per_s``.
        memory_bytes: Resident bytes that the session added; 0 if not measured.
    """

    outputs: Mapping[str, str]
    signature: Signature
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    latency: Mapping[str, float] = field(default_factory=dict)
    timings: tuple[Mapping[str, float], ...] = ()
    memory_bytes: int = 0


# --- events and results of the main job ------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Variant:
    """A model built for a target at a precision, with its proof.

    Attributes:
        target: Target string it was built for.
        precision: ``"fp32"``, ``"fp16"``, ….
        model: The artifact; ``None`` if it could not be built.
        passport: The passport, if there is one: plain data with ``verdict``, ``why``, ``proved``
            and ``path`` at hand.
        verdict: ``"pass"``, ``"weak"`` or ``"fail"``.
        kept: Whether it is part of the result.
        why: Why it is kept or not.
    """

    target: str
    precision: str
    model: Model | None
    passport: Passport | None = None
    verdict: str = "fail"
    kept: bool = False
    why: str = ""
