"""The receipt of a pruning: cost, size, time and accuracy, before and after."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_torch._pruning._measure import (
    accuracy,
    build_both,
    compare_latency,
    feeds_for,
    outputs_of,
    request_rows,
)

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_torch._program import Program
    from lepton_torch._pruning._classes import Cut
    from lepton_torch._pruning._options import Settings
    from lepton_torch._pruning._recover import Recovery
    from lepton_torch._pruning._trace import Structure


def make_receipt(
    before: Program,
    after: Program,
    structure: Structure,
    cut: Cut,
    settings: Settings,
    *,
    target: str,
    held_out: Samples | None,
    recoveries: list[Recovery],
    context: Context,
) -> dict[str, Any]:
    """Measure what pruning gained and lost.

    Returns:
        ``macs`` and ``parameters`` (``before``, ``after``, ``share``), ``size_bytes`` of the
        artifacts, ``latency`` (one entry for requests of one row and of 32, where the batch is
        open), ``accuracy`` on held-out rows if there are samples, ``recovery``, and ``note`` if
        another runtime than the target's was measured.
    """
    bar = context.reporter.task("Measure the pruned model")
    receipt: dict[str, Any] = {
        "target": target,
        "macs": _pair(structure.macs(), structure.macs(cut)),
        "parameters": _pair(structure.parameters(), structure.parameters(cut)),
    }
    with tempfile.TemporaryDirectory(dir=context.workdir, prefix=".receipt-") as scratch:
        old, new, problem = build_both(before, after, target, Path(scratch), context)
        receipt["size_bytes"] = _pair(old.size, new.size)
        requests = [
            feeds_for(before, held_out, rows, context.seed) for rows in request_rows(before)
        ]
        receipt["latency"] = compare_latency(old, new, requests, context, context.seed)
        if problem:
            receipt["note"] = f"timed on torch, not on {target}: {problem}"
    if held_out is not None:
        reference, outputs = outputs_of(before, held_out), outputs_of(after, held_out)
        receipt["accuracy"] = accuracy(reference, outputs, held_out, before.notes)
    receipt["recovery"] = [
        {
            "epochs": one.epochs,
            "best_epoch": one.best_epoch,
            "loss": [one.before, one.after],
            "seconds": round(one.seconds, 2),
            "restarts": one.restarts,
            "stopped": one.stopped,
        }
        for one in recoveries
    ]
    bar.finish()
    return receipt


def _pair(before: int, after: int) -> dict[str, Any]:
    return {"before": before, "after": after, "share": after / before if before else 1.0}


__all__ = ["make_receipt"]
