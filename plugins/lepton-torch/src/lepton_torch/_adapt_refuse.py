"""Programs that cannot be adapted, and constraints that no rewrite met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_core.errors import AdaptError
from lepton_core.rewrites import is_forbidden
from lepton_torch._operators import all_calls, list_operators, source_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_core.capabilities import Constraints
    from lepton_core.types import RewriteReport
    from lepton_torch._program import Program

_KNOWN = {"aten", "prims", "higher_order", "quantized_decomposed", "torchvision"}


def refuse_custom_operators(program: Program) -> None:
    """Refuse operators that exist only where some code has registered them.

    Raises:
        AdaptError: LPT-ADAPT-006, with the user's line.
    """
    for node in all_calls(program.exported):
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target.namespace not in _KNOWN:
            place = source_line(node)
            raise AdaptError(
                "LPT-ADAPT-006",
                f"The model uses the custom operator {node.target}"
                + (f" ({place})" if place else ""),
                cause="A custom operator exists only in a process that has run the code which "
                "registers it; an adapted program could not be read anywhere else.",
                remedy="Write it with torch's own operators.",
                details={"operator": str(node.target), "where": place},
            )


def refuse_training_mode(program: Program) -> None:
    """Refuse a program that was exported in training mode.

    Raises:
        AdaptError: LPT-ADAPT-007, with the user's line.
    """
    for node in all_calls(program.exported):
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        names = [argument.name for argument in schema.arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        name = str(node.target)
        drops = "dropout" in name and given.get("train") is True and given.get("p") != 0
        learns = given.get("training") is True and given.get("running_mean") is not None
        if drops or learns:
            place = source_line(node)
            what = "dropout is on" if drops else "batch normalisation learns from the batch"
            raise AdaptError(
                "LPT-ADAPT-007",
                "The program was exported in training mode" + (f": {place}" if place else ""),
                cause=f"{what} ({name})",
                remedy="Export it again after module.eval(), or port the factory that makes it "
                "(FILE.py:FACTORY), which is put into eval mode.",
                details={"operator": name, "where": place},
            )


def unmet(
    program: Program, constraints: Constraints, reports: Sequence[RewriteReport]
) -> list[str]:
    """Return what the target still cannot run, with the reasons that rewrites gave."""
    found = []
    if constraints.static_shapes and program.bounds:
        found.append(f"{', '.join(program.bounds)} has no fixed size")
    left = [reason for report in reports for reason in report.left]
    for use in list_operators(program.exported, None):
        if is_forbidden(use.name, constraints):
            short = use.name.split(".")[1] if "." in use.name else use.name
            why = [reason for reason in left if reason.startswith(f"{short} ")]
            place = f" ({use.where})" if use.where else ""
            found.append(
                f"{use.name}{place}: " + ("; ".join(why) or "no rewrite that was run removes it")
            )
    return found


def refuse_unmet(found: Sequence[str], target: str) -> None:
    """Refuse a result that the target could not run.

    Raises:
        AdaptError: LPT-ADAPT-009.
    """
    if found:
        raise AdaptError(
            "LPT-ADAPT-009",
            f"The model cannot be fitted to {target}: {found[0]}",
            cause="; ".join(found[1:]) or None,
            remedy="Change the model at that line; `lepton adapt --rewrite NAME` does what can "
            "be done without it.",
            details={"unmet": list(found)},
        )


__all__ = ["refuse_custom_operators", "refuse_training_mode", "refuse_unmet", "unmet"]
