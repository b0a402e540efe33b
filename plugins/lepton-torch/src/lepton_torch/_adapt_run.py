"""Runs rewrites one after the other and measures what each does to the outputs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lepton_core.errors import AdaptError, LeptonError
from lepton_core.types import RewriteReport
from lepton_torch._chatter import captured
from lepton_torch._editor import Editor
from lepton_torch._explain import first_line
from lepton_torch._trials import allowed, difference, trial_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from lepton_core.capabilities import Constraints
    from lepton_core.context import Context
    from lepton_core.rewrites import Offer
    from lepton_torch._adapt_plan import Plan
    from lepton_torch._program import Program
    from lepton_torch._trials import Inputs, Outputs


class Runner:
    """One adaptation at work.

    Args:
        program: The original.
        constraints: What the target declares.
        plan: Which rewrites, with which sizes.
        example: The user's example inputs, if there are any.
        context: Seed, and when to stop.
    """

    def __init__(
        self,
        program: Program,
        constraints: Constraints,
        plan: Plan,
        example: dict[str, torch.Tensor] | None,
        context: Context,
    ) -> None:
        self.plan = plan
        self.context = context
        self.editor = Editor(program, constraints, plan.fixed, plan.bounds)
        self._original = program
        self._tolerance = 0.0
        self._changed = False
        self._inputs: list[Inputs] = []
        self._first: Outputs = []
        trials = trial_inputs(program, plan.fixed, plan.bounds, example, context.seed)
        self._try_original(trials)
        self._last = self._first

    def _try_original(self, trials: list[Inputs]) -> None:
        """Keep the inputs that the original can run, and what it answers.

        Raises:
            AdaptError: LPT-ADAPT-014, it can run none of them.
        """
        problem: Exception | None = None
        for inputs in trials:
            try:
                with captured():
                    outputs = self.editor.run({k: v.clone() for k, v in inputs.items()})
            except Exception as error:
                problem = problem or error
                continue
            self._inputs.append(inputs)
            self._first.append([t.clone() for t in outputs])
        if not self._inputs:
            raise AdaptError(
                "LPT-ADAPT-014",
                "The model runs on no input of the sizes asked for, so nothing can be compared",
                cause=f"{type(problem).__name__}: {first_line(str(problem))}",
                remedy="Ask for other sizes, or give example inputs that work (FILE.py:FACTORY).",
            )

    def run_all(self) -> list[RewriteReport]:
        """Run what is planned; return what became of every rewrite.

        Raises:
            AdaptError: LPT-ADAPT-008, LPT-ADAPT-010, LPT-ADAPT-011.
        """
        reports = []
        for offer, run, why in self.plan.steps:
            self.context.checkpoint()
            if run:
                reports.append(self._run(offer, why))
            else:
                reports.append(RewriteReport(offer.rewrite.name, why=why))
        return reports

    def _run(self, offer: Offer, why: str) -> RewriteReport:
        editor, rewrite = self.editor, offer.rewrite
        editor.changes, editor.left = [], []
        _implementation(offer)
        try:
            with captured():
                _implementation(offer)(editor)
                editor.graph_module.graph.eliminate_dead_code()
                editor.graph_module.graph.lint()
        except LeptonError:
            raise
        except Exception as error:
            raise _failed(offer, error) from error
        left = tuple(f"{what} ({place})" for what, place in dict.fromkeys(editor.left))
        if not editor.changes:
            if why == "asked for" and left:
                raise AdaptError(
                    "LPT-ADAPT-008",
                    f"{rewrite.name} cannot be done anywhere in this model",
                    cause="; ".join(left),
                    remedy=f"It needs this: {rewrite.needs}." if rewrite.needs else "Leave it out.",
                    details={"rewrite": rewrite.name, "left": list(left)},
                )
            return RewriteReport(rewrite.name, (), left, why=f"{why}; there is nothing to change")
        found = self._measure(offer)
        self._changed = True
        self._tolerance += rewrite.tolerance
        effect = _effect(found, rewrite.tolerance)
        lines = tuple(
            f"{rewrite.name}: {what} at {place}; {effect}" for what, place in editor.changes
        )
        return RewriteReport(rewrite.name, lines, left, found, why)

    def _outputs(self) -> Outputs:
        with captured():
            return [
                [t.clone() for t in self.editor.run({k: v.clone() for k, v in i.items()})]
                for i in self._inputs
            ]

    def _measure(self, offer: Offer) -> float:
        """Run the graph as it is now and return how far it is from the one before.

        Raises:
            AdaptError: LPT-ADAPT-010, further than declared; LPT-ADAPT-011, it does not run.
        """
        try:
            outputs = self._outputs()
        except Exception as error:
            raise _failed(offer, error) from error
        found = difference(self._last, outputs)
        limit = allowed(offer.rewrite.tolerance, self._first)
        if not found <= limit:
            places = "; ".join(f"{what} at {place}" for what, place in self.editor.changes[:3])
            raise AdaptError(
                "LPT-ADAPT-010",
                f"{offer.rewrite.name} changes the outputs by {found:.1e}, more than the "
                f"{limit:.1e} that it declares; nothing was written",
                cause=places,
                remedy=f"Leave it out, and report it to the makers of {offer.distribution}.",
                details={"rewrite": offer.rewrite.name, "difference": found, "limit": limit},
            )
        self._last = outputs
        return found

    def finish(self) -> Program:
        """Export what was changed again and compare it with the original once more.

        Raises:
            AdaptError: LPT-ADAPT-010, LPT-ADAPT-013.
        """
        if not self._changed:
            return self._original
        self.editor.fixed, self.editor.bounds = dict(self.plan.fixed), dict(self.plan.bounds)
        self.editor.retrace()
        found = difference(self._first, self._outputs())
        limit = allowed(self._tolerance, self._first)
        if not found <= limit:
            raise AdaptError(
                "LPT-ADAPT-010",
                f"The adapted program differs from the original by {found:.1e}, more than the "
                f"{limit:.1e} that its rewrites declare; nothing was written",
                remedy="Name the rewrites one by one with --rewrite to find the one that does it.",
                details={"difference": found, "limit": limit},
            )
        return self.editor.program


def _effect(found: float, tolerance: float) -> str:
    """Say what a rewrite did to numbers: proved by its kind, or measured on the trials."""
    if found:
        return f"differs by {found:.1e} at most"
    return "no difference measured" if tolerance else "exact"


def _implementation(offer: Offer) -> Callable[[Editor], None]:
    """Import what does a rewrite.

    Raises:
        AdaptError: LPT-ADAPT-011, it cannot be imported.
    """
    module, _, name = offer.rewrite.implementation.partition(":")
    try:
        found: Callable[[Editor], None] = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise _failed(offer, error) from error
    return found


def _failed(offer: Offer, error: Exception) -> AdaptError:
    return AdaptError(
        "LPT-ADAPT-011",
        f"The rewrite {offer.rewrite.name!r} of {offer.distribution} failed",
        cause=f"{type(error).__name__}: {first_line(str(error))}",
        remedy="Name the other rewrites with --rewrite to go on without it, and report it to "
        f"the makers of {offer.distribution}.",
        details={"rewrite": offer.rewrite.name, "exception": type(error).__name__},
    )


__all__ = ["Runner"]
