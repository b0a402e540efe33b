"""Takes channels out of a graph: weights are sliced, and what depends on their sizes follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule, Node

    from lepton_torch._pruning._classes import Cut
    from lepton_torch._pruning._trace import Axes, Structure

State = dict[str, torch.Tensor]


def cut_graph(
    structure: Structure, cut: Cut, state: Mapping[str, torch.Tensor] | None = None
) -> Any:  # noqa: ANN401
    """Return a copy of the graph without the channels of a cut.

    Args:
        structure: What can be removed from the graph; the graph itself is not changed.
        cut: What is removed.
        state: Values of weights, of the sizes after the cut; those of the graph by default.
    """
    graph_module, nodes = copy_graph(structure.graph_module)
    for node, change in structure.edits:
        change(nodes[node], cut)
    made: dict[int, Any] = {}
    for name, axes in structure.weights.items():
        before = tensor(graph_module, name)
        if before.data_ptr() in made and made[before.data_ptr()][0] == before.shape:
            value = made[before.data_ptr()][1]  # tied weights stay tied
        else:
            given = None if state is None else state.get(name)
            sliced = select(before.detach(), axes, cut) if given is None else given.clone()
            learns = isinstance(before, nn.Parameter)
            value = nn.Parameter(sliced, requires_grad=False) if learns else sliced
            made[before.data_ptr()] = (before.shape, value)
        set_tensor(graph_module, name, value)
    graph_module.recompile()
    return graph_module


def select(value: torch.Tensor, axes: Axes, cut: Cut, before: Cut | None = None) -> torch.Tensor:
    """Return the part of a weight that stays.

    Args:
        value: The weight, as it is after *before*.
        axes: Its axes in the original.
        cut: What is removed.
        before: What has been removed from it already.
    """
    for position, ids in enumerate(axes):
        if ids is None:
            continue
        present = ids if before is None else ids[before.mask(ids)]
        mask = cut.mask(present)
        if not mask.all():
            value = value.index_select(position, torch.from_numpy(mask.nonzero()[0]))
    return value.clone()


def zeroed_graph(structure: Structure, cut: Cut) -> Any:  # noqa: ANN401 - torch's GraphModule
    """Return a copy of the whole graph in which every weight of a cut is zero."""
    graph_module, _ = copy_graph(structure.graph_module)
    parameters = dict(graph_module.named_parameters(remove_duplicate=False))
    for name, axes in structure.weights.items():
        if name not in parameters:
            continue
        value = parameters[name].detach().clone()
        for position, ids in enumerate(axes):
            if ids is not None:
                gone = torch.from_numpy((~cut.mask(ids)).nonzero()[0])
                value.index_fill_(position, gone, 0.0)
        set_tensor(graph_module, name, nn.Parameter(value, requires_grad=False))
    return graph_module


def copy_graph(graph_module: GraphModule) -> tuple[Any, dict[Node, Node]]:
    """Return a copy that shares the weights until they are replaced, and its nodes by the old."""
    graph = torch.fx.Graph()
    nodes: dict[Node, Node] = {}
    graph.output(graph.graph_copy(graph_module.graph, nodes))
    return torch.fx.GraphModule(graph_module, graph), nodes


def tensor(graph_module: GraphModule, name: str) -> Any:  # noqa: ANN401 - parameter or buffer
    """Return a weight or constant by name."""
    value: Any = graph_module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def set_tensor(graph_module: GraphModule, name: str, value: torch.Tensor) -> None:
    """Put another weight or constant in the place of one, whatever its shape."""
    owner, _, last = name.rpartition(".")
    parent = graph_module.get_submodule(owner)
    persistent = last in parent._buffers
    delattr(parent, last)
    if isinstance(value, nn.Parameter):
        parent.register_parameter(last, value)
    elif persistent:
        parent.register_buffer(last, value)
    else:
        setattr(parent, last, value)


__all__ = ["State", "cut_graph", "select", "set_tensor", "tensor", "zeroed_graph"]
