"""Which share of the multiply-accumulates gives a latency, by measuring."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from lepton_core.errors import AdaptError
from lepton_torch._pruning._choose import choose
from lepton_torch._pruning._classes import Cut
from lepton_torch._pruning._cut import cut_graph
from lepton_torch._pruning._measure import build, compare_latency, feeds_for
from lepton_torch._retrace import retrace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_torch._program import Program
    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._options import Settings
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
) -> float:
    """Return the largest share of the multiply-accumulates that meets a latency.

    Widths alone decide on time, so that untrained candidates are built and timed against the
    original in turn; the share is found by halving.

    Raises:
        AdaptError: LPT-ADAPT-020, not even the smallest model is quick enough.
    """
    import tempfile
    from pathlib import Path

    numbers = itertools.count()
    feeds = feeds_for(program, samples, 1, context.seed)
    bar = context.reporter.task("Measure widths", _TRIES + 1)
    with tempfile.TemporaryDirectory(dir=context.workdir, prefix=".latency-") as scratch:
        plain, _ = build(program, target, Path(scratch) / "original", context)

        def time_at(share: float) -> tuple[float, float]:
            """Return the share that is reached, and how the time compares with the budget."""
            context.checkpoint()
            chosen = choose(structure, groups, importance, metric="macs", share=share)
            cut = Cut(structure.classes, chosen.removed)
            made = retrace(cut_graph(structure, cut), program)
            folder = Path(scratch) / f"try-{next(numbers)}"
            candidate, _ = build(made, target, folder, context)
            (found,) = compare_latency(plain, candidate, [feeds], context, context.seed)
            bar.advance()
            if settings.milliseconds is not None:
                return chosen.share, found["after_ms"] / settings.milliseconds
            return chosen.share, 1.0 / found["speedup"] / (settings.share or 1.0)

        low, load = time_at(0.0)
        if load > 1.0:
            raise _too_slow(settings, low, load)
        high = 1.0
        for _ in range(_TRIES):
            middle = (low + high) / 2
            reached, load = time_at(middle)
            if load <= 1.0:
                low = middle
            else:
                high = min(middle, reached)
            if high - low < 0.02:
                break
    bar.finish(f"{low:.0%} of the MACs")
    return low


def _too_slow(settings: Settings, share: float, load: float) -> AdaptError:
    wanted = (
        f"{settings.milliseconds:g} ms"
        if settings.milliseconds is not None
        else f"{settings.share:.0%} of the time"
    )
    return AdaptError(
        "LPT-ADAPT-020",
        f"Pruning cannot reach {wanted}; the smallest model needs {load:.2f} times that",
        cause=f"with {share:.1%} of the MACs every group has its smallest width",
        remedy="Ask for a longer time, or for a smaller --prune-multiple.",
        details={"closest": load},
    )


__all__ = ["share_for_latency"]
