"""Which share of the multiply-accumulates gives a latency, by measuring."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from lepton_torch._pruning._choose import choose
from lepton_torch._pruning._classes import Cut
from lepton_torch._pruning._cut import cut_graph
from lepton_torch._pruning._measure import build, compare_latency, feeds_for, request_rows
from lepton_torch._pruning._time import load_of, missed
from lepton_torch._retrace import retrace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_torch._program import Program
    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._options import Settings
    from lepton_torch._pruning._time import Load
    from lepton_torch._pruning._trace import Structure

_TRIES = 5


def share_for_latency(
    program: Program,
    structure: Structure,
    groups: list[Group],
    importance: Mapping[int, float],
    settings: Settings,
    *,
    target: str,
    samples: Samples | None,
    context: Context,
) -> tuple[float, tuple[str, ...]]:
    """Return the largest share of the multiply-accumulates that meets a latency.

    Widths alone decide on time, so that untrained candidates are built and timed against the
    original in turn; the share is found by halving. Where the target cannot run one of them, both
    are timed on torch from there on.

    Returns:
        The share, and what the user should know about the measuring.

    Raises:
        AdaptError: LPT-ADAPT-020, not even the smallest model is quick enough.
    """
    import tempfile
    from pathlib import Path

    numbers = itertools.count()
    feeds = feeds_for(program, samples, request_rows(program)[0], context.seed)
    notes: list[str] = []
    bar = context.reporter.task("Measure widths", _TRIES + 1)
    with tempfile.TemporaryDirectory(dir=context.workdir, prefix=".latency-") as scratch:

        def place() -> Path:
            return Path(scratch) / f"try-{next(numbers)}"

        def noted(why: str) -> None:
            if why and not notes:
                notes.append(f"Times were measured on torch, not on {target}: {why}")

        plain, why = build(program, target, place(), context)
        noted(why)

        def time_at(share: float) -> tuple[float, Load]:
            """Return the share that is reached, and how the time compares with the budget."""
            nonlocal plain
            context.checkpoint()
            chosen = choose(structure, groups, importance, metric="macs", share=share)
            cut = Cut(structure.classes, chosen.removed)
            made = retrace(cut_graph(structure, cut), program)
            on = "torch" if notes else target
            candidate, why = build(made, on, place(), context)
            if candidate.runtime != plain.runtime:
                noted(why)
                plain, _ = build(program, "torch", place(), context)
                candidate, _ = build(made, "torch", place(), context)
            (found,) = compare_latency(plain, candidate, [feeds], context, context.seed)
            bar.advance()
            return chosen.share, load_of(found, settings)

        low, load = time_at(0.0)
        if load.middle > 1.0:
            small = f"with {low:.1%} of the MACs every group has its smallest width"
            raise missed(settings, load, [small, *notes])
        high = 1.0
        for _ in range(_TRIES):
            middle = (low + high) / 2
            reached, load = time_at(middle)
            if load.middle <= 1.0:
                low = middle
            else:
                high = min(middle, reached)
            if high - low < 0.02:
                break
    bar.finish(f"{low:.0%} of the MACs")
    return low, tuple(notes)


__all__ = ["share_for_latency"]
