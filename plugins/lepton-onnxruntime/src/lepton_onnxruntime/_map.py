"""Execution maps: what the optimized graph's nodes stand for, and which provider runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.execution import ExecutedNode, ExecutionMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import GraphProto

    from lepton_onnxruntime._execution import Execution, Run

RECORD = "session.record_ep_graph_assignment_info"
"""Makes ONNX Runtime (1.24 and later) keep which provider took which node."""

_Nodes = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}


def graph_nodes(graph: GraphProto) -> _Nodes:
    """Return name, inputs and outputs of a graph's nodes, without holding on to the graph."""
    return tuple(
        (node.name or next(iter(node.output), ""), tuple(node.input), tuple(node.output))
        for node in graph.node
    )


def assigned(session: Any) -> dict[str, str]:  # noqa: ANN401 - a class of the runtime
    """Return which provider took each node of the graph before it was fused; empty if not told."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    try:
        parts = ask() if ask else ()
    except Exception:  # the session was made without the record; ONNX Runtime's own class
        return {}
    return {node.name: part.ep_name for part in parts for node in part.get_nodes()}


def map_of(
    execution: Execution, source: _Nodes, takers: Mapping[str, str], providers: Iterable[str]
) -> ExecutionMap:
    """Return the map of a session.

    Args:
        execution: What the optimized graph says.
        source: Nodes of the file that was opened.
        takers: Providers by names of nodes (:func:`assigned`).
        providers: Those of the session, in their order.
    """
    stand_for = _sources(execution.runs, source)
    only = [*providers]
    nodes, untold = [], False
    for run, sources in zip(execution.runs, stand_for, strict=True):
        found = {takers[name] for name in (run.name, *sources) if name in takers}
        provider = found.pop() if len(found) == 1 else only[0] if len(only) == 1 else ""
        untold = untold or not provider
        device = _DEVICES.get(provider, provider.removesuffix("ExecutionProvider").lower())
        nodes.append(ExecutedNode(run.name, run.operator, sources, device, provider, run.precision))
    note = "ONNX Runtime does not tell which provider runs the nodes that it added itself."
    return ExecutionMap("onnxruntime", tuple(nodes), (note,) if untold else ())


def _sources(runs: tuple[Run, ...], source: _Nodes) -> Iterator[tuple[str, ...]]:
    """Yield, for each node that runs, the nodes of the file that it stands for.

    Those are the one of its own name, and all that lie between its outputs and the next values that
    the running graph knows.
    Where a node's own outputs are new names (another layout's), those count that the nodes which
    only move them bring back.
    """
    maker = {name: i for i, (_, _, outputs) in enumerate(source) for name in outputs if name}
    named = {name: i for i, (name, _, _) in enumerate(source)}
    known = {name for run in runs for name in (*run.inputs, *run.outputs) if name}
    users: dict[str, list[Run]] = {}
    for run in runs:
        for name in run.inputs:
            users.setdefault(name, []).append(run)
    taken: set[int] = set()

    def between(run: Run) -> tuple[str, ...]:
        own = [name for name in run.outputs if name]
        ends = [name for name in own if name in maker] or [
            name
            for value in own
            for mover in users.get(value, ())
            if mover.operator.endswith(("ReorderOutput", "Transpose"))
            for name in mover.outputs
            if name in maker
        ]
        found: set[int] = set()
        pending = [maker[name] for name in ends] + ([named[run.name]] if run.name in named else [])
        while pending:
            number = pending.pop()
            if number in found or number in taken:
                continue
            found.add(number)
            pending += [
                maker[name] for name in source[number][1] if name in maker and name not in known
            ]
        taken.update(found)
        return tuple(source[i][0] for i in sorted(found))

    return map(between, runs)


__all__ = ["RECORD", "assigned", "graph_nodes", "map_of"]
