"""How much each class of channels matters, measured on what is left of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from lepton_torch._pruning._cut import tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.fx import GraphModule

    from lepton_torch._pruning._classes import Cut
    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._trace import Structure

CRITERIA = ("l1", "l2", "activation", "taylor")
_TINY = 1e-12


def importance(
    structure: Structure,
    groups: list[Group],
    graph_module: GraphModule,
    cut: Cut,
    criterion: str,
    *,
    batches: Sequence[Sequence[Any]] = (),
    leaves: Callable[[Any], list[torch.Tensor]] | None = None,
    seed: int = 0,
) -> dict[int, float]:
    """Return the importance of every class that is left.

    ``l1`` and ``l2`` are norms of all weights that belong to a class. ``activation`` is the size of
    what flows through a channel times the weights that read it, the structured form of Wanda (Sun
    et al. 2023). These three are compared within a group and made comparable between groups by the
    group's mean. ``taylor`` is the expected squared change of the outputs to first order when the
    class goes (Molchanov et al. 2019), with random projections of the outputs in the place of a
    loss, so that it needs no labels; it is comparable as it is.

    Args:
        structure: What can be removed from the original.
        groups: Its groups.
        graph_module: The graph after *cut*.
        cut: What is gone already.
        criterion: One of :data:`CRITERIA`.
        batches: Inputs in the order of the placeholders; what is not ``l1`` or ``l2`` needs them.
        leaves: Chooses the outputs that count; all of floats by default.
        seed: Seed of the projections.
    """
    if criterion == "taylor":
        runs = (leaves or float_leaves, batches)
        raw = _taylor(structure, graph_module, cut, runs, seed)
    elif criterion == "activation":
        raw = _activation(structure, graph_module, cut, batches)
    else:
        raw = _norms(structure, graph_module, cut, 1 if criterion == "l1" else 2)
    found: dict[int, float] = {}
    for group in groups:
        values = np.array([raw.get(int(c), 0.0) for c in group.classes])
        if criterion != "taylor":
            present = values[values > 0]
            values = values / max(float(present.mean()) if len(present) else 0.0, _TINY)
            values = values * len(values) ** -1.0  # every group is worth the same in all
        found |= {int(c): float(v) for c, v in zip(group.classes, values, strict=True)}
    return found


def _sums(
    structure: Structure,
    values: Mapping[str, np.ndarray],
    cut: Cut,
    places: set[tuple[str, int]] | None = None,
) -> dict[int, float]:
    """Add up values by weight entry over the classes that the entries belong to.

    Args:
        structure: What can be removed.
        values: Arrays by weight, of the sizes after the cut.
        cut: What is gone.
        places: Weights and axes that count; all by default.
    """
    found: dict[int, float] = {}
    for name, array in values.items():
        for position, ids in enumerate(structure.weights[name]):
            if ids is None or (places is not None and (name, position) not in places):
                continue
            present = ids[cut.mask(ids)]
            roots = structure.classes.find(present)
            others = tuple(n for n in range(array.ndim) if n != position)
            for root, value in zip(roots, array.sum(axis=others), strict=True):
                if root >= 0:
                    found[int(root)] = found.get(int(root), 0.0) + float(value)
    return found


def _parameters(structure: Structure, graph_module: GraphModule) -> dict[str, torch.Tensor]:
    seen: set[int] = set()
    found: dict[str, torch.Tensor] = {}
    for name, weight in graph_module.named_parameters(remove_duplicate=False):
        if name in structure.weights and weight.is_floating_point() and id(weight) not in seen:
            seen.add(id(weight))
            found[name] = weight
    return found


def _norms(
    structure: Structure, graph_module: GraphModule, cut: Cut, power: int
) -> dict[int, float]:
    weights = _parameters(structure, graph_module)
    values = {n: w.detach().abs().double().pow(power).numpy() for n, w in weights.items()}
    return {c: v ** (1.0 / power) for c, v in _sums(structure, values, cut).items()}


def _taylor(
    structure: Structure,
    graph_module: GraphModule,
    cut: Cut,
    runs: tuple[Callable[[Any], list[torch.Tensor]], Sequence[Sequence[Any]]],
    seed: int,
) -> dict[int, float]:
    leaves, batches = runs
    weights = _parameters(structure, graph_module)
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, float] = {}
    # What reads a channel says exactly what its absence changes; what makes it has to do where
    # nothing with a weight reads it.
    readers = {(r.weight, 1 if r.axis is None else r.axis) for r in structure.readers}
    makers = {
        (one.name, position)
        for one in structure.layers
        for position, ids in enumerate(structure.weights[one.name])
        if ids is one.ids
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for inputs in batches:
            outputs = leaves(graph_module(*inputs))
            total = torch.zeros(())
            for output in outputs:
                noise = torch.randn(output.shape, generator=generator)
                total = total + (output.float() * noise).sum() / _scale(output.detach().float())
            grads = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
            moved = {
                name: (weight.detach() * grad).double().numpy()
                for (name, weight), grad in zip(weights.items(), grads, strict=True)
                if grad is not None
            }
            change = _sums(structure, moved, cut, makers) | _sums(structure, moved, cut, readers)
            for ident, value in change.items():
                found[ident] = found.get(ident, 0.0) + value * value
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return found


def _scale(output: torch.Tensor) -> float:
    """Return how far an output's values vary; their size where all are equal."""
    spread = float(output.std(correction=0))
    return spread if spread > 0.0 else float(output.square().mean().sqrt()) + _TINY


class _Sizes(Interpreter):
    """Runs a graph and adds up squares of some values along one axis each."""

    def __init__(self, graph_module: GraphModule, wanted: Mapping[str, set[int]]) -> None:
        super().__init__(graph_module)
        self.wanted = wanted
        self.squares: dict[tuple[str, int], np.ndarray] = {}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - whatever the graph yields
        value = super().run_node(n)
        for axis in self.wanted.get(n.name, ()):
            others = [d for d in range(value.ndim) if d != axis]
            own = value.detach().double().square().sum(dim=others).numpy()
            self.squares[n.name, axis] = self.squares.get((n.name, axis), 0.0) + own
        return value


def _activation(
    structure: Structure, graph_module: GraphModule, cut: Cut, batches: Sequence[Sequence[Any]]
) -> dict[int, float]:
    names = {
        before: after.name
        for before, after in zip(
            structure.graph_module.graph.nodes, graph_module.graph.nodes, strict=True
        )
    }
    wanted: dict[str, set[int]] = {}
    for reader in structure.readers:
        wanted.setdefault(names[reader.source], set()).add(reader.source_axis)
    runner = _Sizes(graph_module, wanted)
    with torch.no_grad():
        for inputs in batches:
            runner.run(*inputs)
    found: dict[int, float] = {}
    for reader in structure.readers:
        squares = runner.squares[names[reader.source], reader.source_axis]
        weight = tensor(graph_module, reader.weight).detach().double().numpy()
        if reader.axis is None:  # groups: every channel meets the whole kernel's mean
            norms = np.full(len(squares), np.square(weight).mean() * weight[0].size)
        else:
            others = tuple(n for n in range(weight.ndim) if n != reader.axis)
            norms = np.square(weight).sum(axis=others)
        present = reader.ids[cut.mask(reader.ids)]
        for root, value in zip(structure.classes.find(present), squares * norms, strict=True):
            if root >= 0:
                found[int(root)] = found.get(int(root), 0.0) + float(value)
    return found


def float_leaves(result: Any) -> list[torch.Tensor]:  # noqa: ANN401 - whatever a graph returns
    """Return the tensors of floats in a result, in order."""
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


__all__ = ["CRITERIA", "float_leaves", "importance"]
