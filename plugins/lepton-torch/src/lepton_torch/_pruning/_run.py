"""Prunes a program: what can go is found, chosen, taken out, trained, measured and written."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.environment import available_cpus
from lepton_core.errors import AdaptError
from lepton_torch._pruning import _recipe
from lepton_torch._pruning._choose import Chosen, choose
from lepton_torch._pruning._classes import Cut
from lepton_torch._pruning._cut import State, cut_graph, select, tensor
from lepton_torch._pruning._data import Rows
from lepton_torch._pruning._groups import Group, Untouched, find_groups, unknown_names
from lepton_torch._pruning._importance import importance
from lepton_torch._pruning._latency import share_for_latency
from lepton_torch._pruning._proof import Prover, traced
from lepton_torch._pruning._receipt import make_receipt
from lepton_torch._pruning._recover import Recovery, recover
from lepton_torch._pruning._time import load_of, missed, unclear
from lepton_torch._retrace import retrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_torch._program import Program
    from lepton_torch._pruning._options import Settings
    from lepton_torch._pruning._trace import Structure

_SMALL = 2_000_000
"""Trained values up to which a model is small."""
_MARGIN = 0.95
"""Of the share that a missed time asks for: time falls more slowly than multiply-accumulates."""
_LOOKED_AT = 256
"""Rows that importance is measured on."""


@dataclass
class Pruned:
    """A pruned program.

    Attributes:
        program: It.
        changes: One line for every group that was narrowed.
        left: One line for every layer that was not, with the reason.
        receipt: What it gained and lost (JSON types).
        warnings: What the user should know.
        cut: Whether anything was removed.
    """

    program: Program
    changes: tuple[str, ...]
    left: tuple[str, ...]
    receipt: dict[str, Any]
    warnings: tuple[str, ...]
    cut: bool = True


@dataclass
class _Work:
    """One pruning on the way."""

    program: Program
    settings: Settings
    context: Context
    structure: Structure
    prover: Prover
    groups: list[Group]
    untouched: list[Untouched]
    training: Samples | None
    held_out: Samples | None
    rows: Rows | None = None
    removed: tuple[int, ...] = ()
    state: State | None = None
    importance: dict[int, float] = field(default_factory=dict)
    recoveries: list[Recovery] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def cut(self) -> Cut:
        """What is removed so far."""
        return Cut(self.structure.classes, self.removed)


def prune(
    program: Program,
    settings: Settings,
    samples: tuple[Samples, Samples] | None,
    *,
    target: str,
    digest: str,
    context: Context,
) -> Pruned:
    """Remove channels from a program until a budget holds, and train what is left.

    In rounds: importance is measured on what is left, a part of the budget is cut, and the rest is
    trained towards the original. What is cut is proved to be the same as setting the weights of
    those channels to zero. Rows are divided as ``lepton port`` divides them: what trains is never
    what is measured on.

    Args:
        program: The original; it is not changed.
        settings: What was asked for.
        samples: Rows to prune with and rows held out (:func:`._data.divide`), or ``None``: one
            round by the weights alone then, and nothing is trained.
        target: Target id that time is measured on.
        digest: Digest of the model that went in.
        context: Seed, progress, where ``pruning.json`` goes.

    Raises:
        AdaptError: LPT-ADAPT-015 to LPT-ADAPT-021: nothing can be removed, the budget or the limit
            on the loss cannot be met, or a recipe does not fit.
    """
    with _threads(program):
        return _prune(program, settings, samples, target=target, digest=digest, context=context)


@contextlib.contextmanager
def _threads(program: Program) -> Iterator[None]:
    """Use one thread for small models: more would spend their time waiting for each other."""
    before = torch.get_num_threads()
    values = sum(t.numel() for t in program.exported.state_dict.values())
    torch.set_num_threads(1 if values < _SMALL else available_cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prune(
    program: Program,
    settings: Settings,
    samples: tuple[Samples, Samples] | None,
    *,
    target: str,
    digest: str,
    context: Context,
) -> Pruned:
    began = time.monotonic()
    work = _begin(program, settings, samples, context)
    if settings.recipe is not None:
        data = _recipe.read(settings.recipe)
        work.removed = _recipe.removed_by(data, work.structure, settings.recipe)
        if work.removed:
            _prove(work, work.removed)
            _recover_round(work, settings.epochs, "recover", began)
        else:
            work.warnings.append("The recipe removes nothing.")
    else:
        _rounds(work, target, began)
    made, receipt = _measured(work, target)
    if settings.recipe is None and settings.metric == "latency":
        made, receipt = _in_time(work, made, receipt, target, began)
    _judge(work, receipt)
    return _result(work, made, receipt, digest)


def _measured(work: _Work, target: str) -> tuple[Program, dict[str, Any]]:
    """Return what is left as a program, and its receipt."""
    made = retrace(cut_graph(work.structure, work.cut, work.state), work.program)
    receipt = make_receipt(
        work.program, made, work.structure, work.cut, work.settings, target=target,
        held_out=work.held_out, recoveries=work.recoveries, context=work.context,
    )  # fmt: skip
    return made, receipt


def _begin(
    program: Program,
    settings: Settings,
    samples: tuple[Samples, Samples] | None,
    context: Context,
) -> _Work:
    structure = traced(program, context.seed)
    prover = Prover(program, structure, context.seed)
    multiple = settings.multiple if settings.recipe is None else 1  # a recipe may leave any width
    groups, untouched = find_groups(structure, multiple, settings.keep)
    _check_names(structure, settings)
    training, held_out = samples if samples is not None else (None, None)
    work = _Work(
        program, settings, context, structure, prover, groups, untouched, training, held_out
    )
    if training is not None:
        work.rows = Rows(program, structure.graph_module, training, context.seed)
    else:
        work.warnings.append(
            "No samples: channels were chosen by their weights alone and nothing was trained."
        )
    return work


def _check_names(structure: Structure, settings: Settings) -> None:
    for name in unknown_names(structure, settings.keep):
        layers = sorted({layer.name for layer in structure.layers})
        raise AdaptError(
            "LPT-ADAPT-017",
            f"The model has no weight or module {name!r} whose width could be kept",
            cause=f"its layers are {', '.join(layers[:8])}{', …' if len(layers) > 8 else ''}",
            remedy="Name one of these, or the module that holds it.",
            details={"layers": layers},
        )


def _rounds(work: _Work, target: str, began: float) -> None:
    settings = work.settings
    if not work.groups:
        why = "; ".join(f"{u.name}: {u.why}" for u in work.untouched[:3])
        raise AdaptError(
            "LPT-ADAPT-018",
            "Nothing can be pruned from this model",
            cause=why or "it has no layers with weights",
            remedy="Ask for a smaller --prune-multiple, or keep the model as it is.",
        )
    _measure_importance(work)
    wanted = settings.share if settings.share is not None else 1.0
    if settings.metric == "latency":
        wanted, notes = share_for_latency(
            work.program, work.structure, work.groups, work.importance, settings,
            target=target, samples=work.held_out, context=work.context,
        )  # fmt: skip
        work.warnings += notes
    rounds = settings.rounds if work.rows is not None else 1
    for number in range(1, rounds + 1):
        work.context.checkpoint()
        if number > 1:
            _measure_importance(work)
        share = wanted ** (number / rounds)
        chosen = _choose(work, share)
        chosen = _prove_or_leave(work, chosen, share)
        if chosen.limit and number == rounds:
            raise _unmet(work, chosen, wanted)
        _apply(work, chosen.removed)
        epochs = _share_of_epochs(settings.epochs, number, rounds)
        _recover_round(work, epochs, f"Recover, round {number} of {rounds}", began)


def _share_of_epochs(epochs: int, number: int, rounds: int) -> int:
    """Return the passes of a round: half of all for the last, the rest for those before it."""
    if rounds == 1:
        return epochs
    return epochs - epochs // 2 if number == rounds else epochs // 2 // (rounds - 1)


def _choose(work: _Work, share: float) -> Chosen:
    return choose(
        work.structure, work.groups, work.importance,
        metric=work.settings.counted, share=share, removed=work.removed,
    )  # fmt: skip


def _measure_importance(work: _Work) -> None:
    graph_module = cut_graph(work.structure, work.cut, work.state)
    batches = work.rows.first(_LOOKED_AT, 32) if work.rows is not None else []
    work.importance |= importance(
        work.structure, work.groups, graph_module, work.cut, work.settings.criterion,
        batches=batches, leaves=work.rows.leaves if work.rows is not None else None,
        seed=work.context.seed,
    )  # fmt: skip


def _apply(work: _Work, removed: tuple[int, ...]) -> None:
    """Slice the weights as they are now for a further cut."""
    before, after = work.cut, Cut(work.structure.classes, removed)
    if work.state is not None:
        work.state = {
            name: select(value, work.structure.weights[name], after, before)
            for name, value in work.state.items()
        }
    work.removed = removed


def _prove(work: _Work, removed: tuple[int, ...]) -> None:
    difference = work.prover.difference(Cut(work.structure.classes, removed))
    if not difference <= work.prover.limit:
        raise AdaptError(
            "LPT-ADAPT-019",
            "Taking these channels out is not the same as setting them to zero; nothing is written",
            cause=f"outputs differ by {difference:.1e}",
            remedy="Report it to the makers of lepton-torch. Until then keep one layer after "
            "another with --prune-keep, or leave its group out of the recipe.",
        )


def _prove_or_leave(work: _Work, chosen: Chosen, share: float) -> Chosen:
    """Leave groups alone whose removal is not what was thought, and choose again."""
    for _ in range(len(work.groups) + 1):
        if work.prover.holds(Cut(work.structure.classes, chosen.removed)):
            return chosen
        odd = [g for g in work.groups if not work.prover.holds_for(g, work.removed)]
        if not odd:
            break
        work.groups = [g for g in work.groups if g not in odd]
        why = "removing it was not the same as setting it to zero"
        work.untouched += [Untouched(one.name, why) for g in odd for one in g.layers]
        chosen = _choose(work, share)
    _prove(work, chosen.removed)
    return chosen


def _recover_round(work: _Work, epochs: int, name: str, began: float) -> None:
    if work.rows is None or epochs < 1:
        return
    graph_module: Any = cut_graph(work.structure, work.cut, work.state)
    deadline = None if work.settings.seconds is None else began + work.settings.seconds
    bar = work.context.reporter.task(name, epochs)

    def step() -> None:
        bar.advance()
        work.context.checkpoint()

    work.recoveries.append(
        recover(
            graph_module,
            work.rows,
            epochs=epochs,
            deadline=deadline,
            seed=work.context.seed,
            step=step,
        )
    )
    last = work.recoveries[-1]
    bar.finish(f"loss {last.before:.3g} to {last.after:.3g}")
    if last.stopped:
        work.warnings.append(f"{name}: time ran out after {last.epochs} of {epochs} passes.")
    work.state = {n: tensor(graph_module, n).detach().clone() for n in work.structure.weights}


def _unmet(work: _Work, chosen: Chosen, wanted: float) -> AdaptError:
    stuck = [f"{u.name}: {u.why}" for u in work.untouched]
    return AdaptError(
        "LPT-ADAPT-020",
        f"Pruning cannot leave {wanted:.0%} of the {work.settings.counted}; the closest is "
        f"{chosen.share:.1%}",
        cause="; ".join([chosen.limit, *stuck[:3]]),
        remedy=f"Ask for {work.settings.counted}={chosen.share + 0.005:.2f}, or for a smaller "
        "--prune-multiple.",
        details={"closest": chosen.share, "untouched": stuck},
    )


def _in_time(
    work: _Work, made: Program, receipt: dict[str, Any], target: str, began: float
) -> tuple[Program, dict[str, Any]]:
    """Compare the time that was measured with the budget; cut once more where it is missed.

    Raises:
        AdaptError: LPT-ADAPT-020, the whole interval misses it.
    """
    load = load_of(receipt["latency"][0], work.settings)
    limit = ""
    if load.low > 1.0:
        limit = _cut_further(work, load.middle, began)
        if not limit:
            made, receipt = _measured(work, target)
            load = load_of(receipt["latency"][0], work.settings)
    if load.low > 1.0:
        left = f"{receipt['macs']['share']:.1%} of the MACs are left"
        stuck = [f"{u.name}: {u.why}" for u in work.untouched[:3]]
        note = [receipt["note"]] if "note" in receipt else []
        raise missed(work.settings, load, [limit or left, *note, *stuck])
    if load.high > 1.0:
        work.warnings.append(unclear(work.settings, load))
    return made, receipt


def _cut_further(work: _Work, load: float, began: float) -> str:
    """Repeat the last round with a share that is lower by what was missed; or say why it cannot."""
    _measure_importance(work)
    share = work.structure.macs(work.cut) / work.structure.macs() / load * _MARGIN
    chosen = _prove_or_leave(work, _choose(work, share), share)
    if set(chosen.removed) == set(work.removed):
        return chosen.limit or "no channels are left that could go"
    _apply(work, chosen.removed)
    rounds = work.settings.rounds if work.rows is not None else 1
    epochs = _share_of_epochs(work.settings.epochs, rounds, rounds)
    _recover_round(work, epochs, "Recover, one round more for the time", began)
    return ""


def _judge(work: _Work, receipt: dict[str, Any]) -> None:
    """Refuse a loss above the limit; say where nothing was gained.

    Raises:
        AdaptError: LPT-ADAPT-021.
    """
    found, limit = receipt.get("accuracy"), work.settings.max_drop
    if limit is not None and found is not None and not found["drop"] <= limit:
        raise AdaptError(
            "LPT-ADAPT-021",
            f"Pruning loses {found['drop']:.4g} of {found['metric']}, more than {limit:g}; nothing "
            "was written",
            cause=f"{found['before']:.4g} before and {found['after']:.4g} after, on "
            f"{found['rows']} rows held out",
            remedy="Ask for a larger share, for more --recover-epochs, or give more samples.",
            details={"receipt": receipt},
        )
    slow = [one for one in receipt["latency"] if one["interval"][0] <= 1.0]
    if slow and len(slow) == len(receipt["latency"]):
        work.warnings.append(
            f"It is not measurably faster on {slow[0]['runtime']} here "
            f"({slow[0]['speedup']:.2f}x); it is smaller."
        )


def _result(work: _Work, made: Program, receipt: dict[str, Any], digest: str) -> Pruned:
    settings, structure, cut = work.settings, work.structure, work.cut
    groups = _recipe.describe_groups(structure, work.groups, cut, work.importance)
    untouched = [{"layer": u.name, "why": u.why} for u in work.untouched]
    odd = [{"operator": node.name, "why": why} for node, why in structure.left]
    place = work.context.workdir / _recipe.FILE
    _recipe.write(
        place,
        {
            "source": digest,
            "asked": settings.asked(),
            "seed": work.context.seed,
            "weights": _recipe.kept_indices(structure, cut),
            "groups": groups,
            "untouched": untouched,
            "not_understood": odd,
            "receipt": _recipe.without_times(receipt),
        },
    )
    made.notes = {**made.notes, "pruning": {"asked": settings.asked(), "file": _recipe.FILE}}
    made.notes["parameters"] = receipt["parameters"]["after"]
    changes = tuple(_line(group) for group in groups)
    left = tuple(f"{one['layer']}: {one['why']}" for one in untouched)
    left += tuple(f"{one['operator']}: {one['why']}" for one in odd)
    receipt = {**receipt, "groups": groups, "recipe": _recipe.FILE}
    return Pruned(made, changes, left, receipt, tuple(work.warnings), bool(work.removed))


def _line(group: dict[str, Any]) -> str:
    more = f" (with {', '.join(group['with'])})" if group["with"] else ""
    units = ""
    if group["kind"] != "channel":
        units = f", {group['units'][0]} to {group['units'][1]} {group['kind']}s"
    place = f" at {group['where']}" if group["where"] else ""
    widths = f"{group['before']} to {group['after']} channels"
    return f"prune: {group['layer']}{more}: {widths}{units}{place}"


__all__ = ["Pruned", "prune"]
