"""Which rewrites are run on a program, and with which sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_core.errors import AdaptError, UsageError
from lepton_core.rewrites import Offer, is_forbidden, matches, offers
from lepton_torch._operators import list_operators
from lepton_torch._usercode import near
from lepton_torch.info import INFO

if TYPE_CHECKING:
    from lepton_core.capabilities import Constraints, Rewrite
    from lepton_core.context import Context
    from lepton_core.types import AdaptRequest
    from lepton_torch._program import Program

DEFAULT_BATCH = 1
"""Batch size of a target that takes static shapes only, if none is asked for."""


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        steps: Every rewrite in order, with the reason to run it or not to.
        fixed: Sizes of symbols.
        bounds: New bounds of symbols.
        notes: What the user should know.
    """

    steps: list[tuple[Offer, bool, str]] = field(default_factory=list)
    fixed: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def make_plan(
    program: Program,
    request: AdaptRequest,
    constraints: Constraints,
    format_id: str,
    context: Context,
) -> Plan:
    """Decide for every rewrite whether it is run.

    Raises:
        UsageError: LPT-ADAPT-003 or LPT-ADAPT-004, a size is wrong.
        AdaptError: LPT-ADAPT-005, the target wants sizes that nobody gave.
    """
    plan = Plan()
    _sizes(plan, program, request, constraints)
    if context.hooks is not None:
        known = offers(context.hooks.registry, format_id)
    else:  # called without a registry: what this plugin brings itself
        known = tuple(Offer(r, INFO.id, INFO.distribution) for r in INFO.rewrites)
    operators = [use.name for use in list_operators(program.exported, None)]
    for offer in known:
        run, why = _decide(offer.rewrite, request, constraints, operators, plan)
        plan.steps.append((offer, run, why))
    return plan


def _decide(  # noqa: PLR0911 - one per reason
    rewrite: Rewrite,
    request: AdaptRequest,
    constraints: Constraints,
    operators: list[str],
    plan: Plan,
) -> tuple[bool, str]:
    """Return whether a rewrite is run, and why."""
    if rewrite.fixes_shapes:
        if plan.fixed or plan.bounds:
            return True, "sizes are given"
        return False, "no sizes are given, and the target takes open ones"
    if request.rewrites:
        if rewrite.name in request.rewrites:
            return True, "asked for"
        return False, "other rewrites are asked for"
    if rewrite.name in constraints.rewrites:
        return True, "the target wants it"
    used = [name for name in operators if any(matches(name, r) for r in rewrite.removes)]
    forbidden = [name for name in used if is_forbidden(name, constraints)]
    if forbidden:
        return True, f"the target cannot run {', '.join(forbidden)}"
    if rewrite.standard:
        return True, "done for every target"
    if used:
        return False, f"the target runs {', '.join(used)}"
    return False, "the model has none of its operators"


def _sizes(plan: Plan, program: Program, request: AdaptRequest, constraints: Constraints) -> None:
    known = program.bounds
    for name in (*request.shapes, *request.bounds):
        if name not in known:
            raise _unknown_symbol(name, program)
    for name, size in request.shapes.items():
        _check(name, size, size, program)
        plan.fixed[name] = size
    for name, (lower, upper) in request.bounds.items():
        _check(name, lower, upper, program)
        if name not in plan.fixed:
            plan.bounds[name] = (lower, upper)
    if not constraints.static_shapes or request.rewrites:
        return
    if "batch" in known and "batch" not in plan.fixed:
        plan.fixed["batch"] = max(DEFAULT_BATCH, known["batch"][0])
        plan.bounds.pop("batch", None)
        plan.notes.append(
            f"{request.target} takes static shapes; the batch is fixed at {plan.fixed['batch']}."
        )
    missing = [name for name in known if name not in plan.fixed]
    if missing:
        example = ",".join(f"{name}=128" for name in missing)
        raise AdaptError(
            "LPT-ADAPT-005",
            f"{request.target} takes static shapes only, and {', '.join(missing)} has no size",
            cause=f"the model is {program.signature}",
            remedy=f"Give the sizes, such as --shape {example}.",
            details={"symbols": missing},
        )


def _unknown_symbol(name: str, program: Program) -> UsageError:
    known = list(program.bounds)
    close = near(name, known)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return UsageError(
        "LPT-ADAPT-003",
        f"The model has no symbolic dimension {name!r}",
        cause=f"symbolic dimensions: {', '.join(known) or 'none, every size is fixed'}; "
        f"the model is {program.signature}",
        remedy=f"{hint}Name one of these, or leave --shape out.",
        details={"symbol": name, "known": known},
    )


def _check(name: str, lower: int, upper: int, program: Program) -> None:
    """Refuse sizes that the program was not exported for.

    Raises:
        UsageError: LPT-ADAPT-004.
    """
    least, most = program.bounds[name]
    if least <= lower <= upper and (most is None or upper <= most):
        return
    asked = str(lower) if lower == upper else f"{lower} to {upper}"
    raise UsageError(
        "LPT-ADAPT-004",
        f"{name} cannot be {asked}",
        cause=f"the program was exported for {least} to {most if most is not None else 'any size'}",
        remedy="Ask for a size in these bounds, or export the model again with wider ones.",
        details={"symbol": name, "bounds": [least, most]},
    )


__all__ = ["Plan", "make_plan"]
