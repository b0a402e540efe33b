"""Pre-flight: what would fit where, judged before anything is converted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core.engines import recipe_precisions
from lepton_core.errors import (
    LeptonError,
    OperationCancelledError,
    PlanError,
    PluginDependencyError,
    PluginError,
    PluginNotInstalledError,
    UnknownTargetError,
)
from lepton_core.rewrites import broken_constraints, offers
from lepton_core.types import CheckRequest, CheckResult, InspectRequest, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.capabilities import Rewrite, TargetInfo
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.types import InspectResult, Model

FITS, REWRITE, IMPOSSIBLE, UNAVAILABLE = "fits", "needs-rewrite", "impossible", "unavailable"


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """What pre-flight says about one target.

    Attributes:
        target: Target string.
        verdict: ``"fits"``, ``"needs-rewrite"``, ``"impossible"``, or ``"unavailable"`` if the
            target's plugin cannot be asked.
        reasons: Which rewrite, why not and where in the source, or why it cannot be asked.
        precisions: Precisions that could be built.
        path: Formats that a conversion would go through.
        supported: With ``"needs-rewrite"``: whether an installed plugin does rewrites.
        remedy: What to do about it.
        code: Code of the error behind an ``"impossible"`` or ``"unavailable"``.
        by_engine: Precisions that an installed engine makes by a recipe, by the engine's name.
        rewrites: With ``"needs-rewrite"``: names of the rewrites that may do it, those of one
            reason in the order in which they are tried.
    """

    target: str
    verdict: str
    reasons: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    supported: bool = True
    remedy: str = ""
    code: str | None = None
    rewrites: tuple[str, ...] = ()
    by_engine: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether a port to this target could succeed."""
        return self.verdict == FITS or (self.verdict == REWRITE and self.supported)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "target": self.target,
            "verdict": self.verdict,
            "ok": self.ok,
            "reasons": list(self.reasons),
            "precisions": list(self.precisions),
            "by_engine": {engine: list(made) for engine, made in self.by_engine.items()},
            "path": list(self.path),
            "rewrite_supported": self.supported if self.verdict == REWRITE else None,
            "remedy": self.remedy or None,
            "code": self.code,
            "rewrites": list(self.rewrites),
        }


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """The pre-flight matrix of one source.

    Attributes:
        inspection: What is known about the source.
        targets: One judgement per target, in the order asked for.
        asked: Whether the targets were named; if not, those that are unavailable do not count.
    """

    inspection: InspectResult
    targets: tuple[TargetCheck, ...]
    asked: bool = True

    @property
    def ok(self) -> bool:
        """Whether every target that counts could be built for."""
        counted = [t for t in self.targets if self.asked or t.verdict != UNAVAILABLE]
        return bool(counted) and all(t.ok for t in counted)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        from lepton_core.codec import to_data

        model = self.inspection.model
        name = f"{model.path}:{model.entry}" if model.entry else model.path
        return {
            "schema": 1,
            "ok": self.ok,
            "source": {
                "path": name,
                "format": model.format,
                "digest": model.digest or None,
                "signature": str(model.signature) if model.signature else None,
                "parameters": self.inspection.parameters,
                "facts": to_data(self.inspection.facts),
                "operators": to_data(self.inspection.operators),
                "problems": list(self.inspection.problems),
            },
            "targets": [t.to_dict() for t in self.targets],
        }


def check(
    source: str | Model, targets: Sequence[str], hooks: Hooks, context: Context
) -> PreflightReport:
    """Inspect a source once and ask every target whether it would fit.

    Args:
        source: What the user named, or a model.
        targets: Target strings; empty means every installed and every known target.
        hooks: Calls the plugins.
        context: Where to write scratch files, how to report, when to stop.

    Returns:
        One judgement per target; nothing has been converted.

    Raises:
        UnknownTargetError: A target that nobody knows.
        SourceError: The source cannot be found or read.
        PluginError: The plugin that reads the source is not installed or cannot be used.
    """
    asked = tuple(Target.parse(text) for text in targets) or _all_targets(hooks)
    for target in asked:
        _refuse_unknown(target, hooks)
    if isinstance(source, str):
        from lepton_core.sources import resolve

        source = resolve(source, hooks.registry)
    bar = context.reporter.task("inspect", None)
    inspection = hooks.inspect(source, InspectRequest(operators=True), context)
    bar.finish()
    bar = context.reporter.task("check", len(asked))
    judged = []
    for target in asked:
        context.checkpoint()
        judged.append(_check_one(inspection, target, hooks, context))
        bar.advance()
    bar.finish()
    return PreflightReport(inspection, tuple(judged), asked=bool(targets))


def _all_targets(hooks: Hooks) -> tuple[Target, ...]:
    from lepton_core.catalogue import KNOWN

    installed = [r.id for r in hooks.registry.records.values() if r.kind == "target"]
    known = [k.id for k in KNOWN.values() if k.kind == "target" and k.id not in installed]
    return tuple(Target(name) for name in (*installed, *known))


def _refuse_unknown(target: Target, hooks: Hooks) -> None:
    """Raise for a name that nobody knows; whatever else is wrong becomes part of the matrix."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hooks.registry.target(target.id)
    except UnknownTargetError:
        raise
    except PluginError:
        return


def _check_one(
    inspection: InspectResult, target: Target, hooks: Hooks, context: Context
) -> TargetCheck:
    name = str(target)
    try:
        info = hooks.registry.target(target.id)
        path = _path(inspection, info, hooks)
        result = _ask(inspection, target, info, hooks, context)
    except OperationCancelledError:
        raise
    except PlanError as error:
        return _refused(name, IMPOSSIBLE, error)
    except (PluginNotInstalledError, PluginDependencyError) as error:
        return _refused(name, UNAVAILABLE, error)
    except LeptonError as error:
        return _refused(name, UNAVAILABLE, error)
    offered = tuple(o.rewrite for o in offers(hooks.registry, inspection.model.format))
    if result.verdict == FITS:  # a plugin may judge by more than it declares, never by less
        declared = judge_by_constraints(inspection, info, offered)
        if declared.verdict != FITS:
            result = replace(declared, precisions=result.precisions)
    broken = broken_constraints(
        inspection.operators, inspection.model.signature, info.constraints, offered
    )
    names = dict.fromkeys(name for one in broken for name in one.rewrites)
    converts = len(path) > 1
    blockers = _blockers(inspection) if converts else ()
    if blockers and result.verdict != IMPOSSIBLE:
        result = CheckResult(IMPOSSIBLE, (*blockers, *result.reasons))
    supported = result.verdict != REWRITE or _rewrites(inspection.model, hooks)
    possible = result.verdict != IMPOSSIBLE
    precisions = () if not possible else result.precisions or info.precisions
    return TargetCheck(
        name,
        result.verdict,
        tuple(dict.fromkeys(result.reasons)),
        tuple(precisions),
        path,
        supported,
        "" if supported else "No installed plugin does this rewrite; change the model itself.",
        rewrites=tuple(names) if result.verdict == REWRITE else (),
        by_engine=_by_engine(info, precisions, path, hooks) if possible else {},
    )


def _by_engine(
    info: TargetInfo, others: Sequence[str], path: Sequence[str], hooks: Hooks
) -> dict[str, tuple[str, ...]]:
    """Return what engines make beside the other precisions; they work on the pivot."""
    if "pivot" not in path:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken plugin is no matter of this source
        found = recipe_precisions(info, hooks.registry.infos())
    left = {engine: tuple(p for p in made if p not in others) for engine, made in found.items()}
    return {engine: made for engine, made in left.items() if made}


def _refused(name: str, verdict: str, error: LeptonError) -> TargetCheck:
    return TargetCheck(
        name,
        verdict,
        tuple(filter(None, (error.message, error.cause))),
        remedy=error.remedy or "",
        code=error.code,
    )


def _path(inspection: InspectResult, info: TargetInfo, hooks: Hooks) -> tuple[str, ...]:
    """Return the formats on the way to the target.

    Raises:
        PlanError: There is no way.
    """
    from lepton_core.planner import plan

    start = inspection.model.format
    infos, problem = hooks.registry.infos(), None
    for precision in info.precisions or ("fp32",):
        try:
            steps = plan(start, info.artifact, infos, precision=precision).steps
        except PlanError as error:
            problem = problem or error
            continue
        return (start, *(step.edge.result for step in steps))
    raise problem or RuntimeError("a target offers at least one precision")


def _ask(
    inspection: InspectResult, target: Target, info: TargetInfo, hooks: Hooks, context: Context
) -> CheckResult:
    """Ask the target's plugin; to one that does not judge, everything fits so far."""
    if target.device and info.devices and target.device not in info.devices:
        return CheckResult(
            IMPOSSIBLE,
            (f"there is no device {target.device!r}; devices: {', '.join(info.devices)}",),
        )
    request = CheckRequest(target.id, inspection, target.device)
    try:
        return hooks.check(inspection.model, request, context)
    except LeptonError as error:
        if error.code not in ("LPT-OP-001", "LPT-OP-002"):
            raise
    return CheckResult(FITS, (), info.precisions)  # what it declares is judged in any case


def judge_by_constraints(
    inspection: InspectResult, info: TargetInfo, offered: Sequence[Rewrite] = ()
) -> CheckResult:
    """Judge a source by what a target declares.

    Args:
        inspection: What is known about the source.
        info: What the target declares.
        offered: Rewrites for this kind of source; an operator that the target forbids and none
            of them removes makes it impossible.
    """
    limits, signature = info.constraints, inspection.model.signature
    tensors = (*signature.inputs, *signature.outputs) if signature else ()
    impossible, rewrites = [], []
    for tensor in tensors:
        if limits.max_rank is not None and len(tensor.shape) > limits.max_rank:
            impossible.append(
                f"{tensor.name} has rank {len(tensor.shape)}; {info.title} takes up to "
                f"{limits.max_rank}"
            )
    for broken in broken_constraints(inspection.operators, signature, limits, offered):
        if broken.rewrites or broken.shapes:
            by = f"rewrite {' or '.join(broken.rewrites)}: " if broken.rewrites else ""
            rewrites.append(f"{by}{broken.reason}")
        else:
            impossible.append(broken.reason)
    if impossible:
        return CheckResult(IMPOSSIBLE, tuple(impossible))
    if rewrites:
        return CheckResult(REWRITE, tuple(rewrites), info.precisions)
    return CheckResult(FITS, (), info.precisions)


def _blockers(inspection: InspectResult) -> tuple[str, ...]:
    """Return what stops any conversion of this source, with the place."""
    found = list(inspection.problems)
    for operator in inspection.operators:
        if operator.convertible is False:
            place = f" at {operator.where}" if operator.where else ""
            note = f": {operator.note}" if operator.note else ""
            if not any(operator.name in problem for problem in found):
                found.append(f"{operator.name}{place} has no way to the pivot{note}")
    return tuple(found)


def _rewrites(model: Model, hooks: Hooks) -> bool:
    try:
        owner = hooks.source_owner(model.format)
    except PluginError:
        return False
    return bool(hooks.registry.info(owner).capability("adapt").support)


__all__ = ["PreflightReport", "TargetCheck", "check", "judge_by_constraints"]
