"""Proves that taking channels out is the same as setting their weights to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lepton_torch._chatter import captured
from lepton_torch._pruning._classes import Cut
from lepton_torch._pruning._cut import cut_graph, zeroed_graph
from lepton_torch._pruning._trace import trace
from lepton_torch._retrace import Shapes, constants, editable, placeholders
from lepton_torch._trials import allowed, difference, trial_inputs

if TYPE_CHECKING:
    from lepton_torch._program import Program
    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._trace import Structure
    from lepton_torch._trials import Outputs

_TOLERANCE = 1e-5
_ROWS = 7
"""Batch that the graph is walked with: no size of a model, so that it is not taken for one."""


def traced(program: Program, seed: int) -> Structure:
    """Return what can be removed from a program."""
    shapes = Shapes(program)
    chosen = shapes.choose({})
    first = program.signature.inputs[0].shape
    rows = 1
    if first and isinstance(first[0], str):
        name = first[0]
        least, most = shapes.bounds.get(name, (1, None))
        if least <= _ROWS and (most is None or most >= _ROWS):
            chosen = shapes.choose({name: _ROWS})
        rows = chosen[name]
    elif len(first) > 1 and isinstance(first[0], int):
        rows = max(first[0], 1)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        place: _filled(size, shapes.dtypes[place], generator)
        for place, size in shapes.sizes(chosen).items()
    }
    with captured():
        graph_module = editable(program.exported)
        given = {**tensors, **constants(program.exported)}
        inputs = [given[str(n.target)] for n in placeholders(graph_module)]
        return trace(graph_module, inputs, rows)


def _filled(size: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(size, generator=generator).to(dtype)
    return torch.randint(0, 2, size, generator=generator).to(dtype)


class Prover:
    """Compares pruned graphs with the original whose pruned weights are zero.

    Args:
        program: The original.
        structure: What can be removed.
        seed: Seed of the inputs.

    Attributes:
        limit: Largest relative L2 difference that counts as the same.
    """

    def __init__(self, program: Program, structure: Structure, seed: int) -> None:
        self._structure = structure
        order = [str(n.target) for n in placeholders(structure.graph_module)]
        fixed = constants(program.exported)
        self._trials = [
            [{**trial, **fixed}[name] for name in order]
            for trial in trial_inputs(program, {}, {}, None, seed)
        ]
        with captured():
            self.limit = allowed(_TOLERANCE, self.run(structure.graph_module))

    def run(self, graph_module: Any) -> Outputs:  # noqa: ANN401 - torch's GraphModule
        """Return the outputs of a graph on every trial."""
        found = []
        for trial in self._trials:
            with torch.no_grad():
                given = [t.clone() if isinstance(t, torch.Tensor) else t for t in trial]
                leaves = torch.utils._pytree.tree_leaves(graph_module(*given))
            found.append([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
        return found

    def difference(self, cut: Cut) -> float:
        """Return how far the pruned graph is from the zeroed one; infinite if it does not run."""
        with captured():
            expected = self.run(zeroed_graph(self._structure, cut))
            try:
                found = self.run(cut_graph(self._structure, cut))
            except (RuntimeError, ValueError, IndexError, TypeError):
                return float("inf")
        return difference(expected, found)

    def holds(self, cut: Cut) -> bool:
        """Tell whether pruning is the same as setting to zero."""
        return self.difference(cut) <= self.limit

    def holds_for(self, group: Group, removed: tuple[int, ...]) -> bool:
        """Tell the same of one block of one group alone."""
        gone = set(removed)
        left = [int(c) for c in group.classes if int(c) not in gone]
        block = left[: len(left) - group.next_size(len(left))]
        return self.holds(Cut(self._structure.classes, sorted(gone | set(block))))


__all__ = ["Prover", "traced"]
