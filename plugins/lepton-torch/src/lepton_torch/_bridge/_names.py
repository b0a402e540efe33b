"""Where the values of an ONNX graph are found again in the exported program.

Every node of the program that a node of the graph became carries that node's operator, place and
outputs in ``meta["custom"]["onnx"]``. ``torch.export.save``, ``load`` and decompositions keep it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.fx.traceback import annotate, preserve_node_meta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram
    from torch.fx import Node as Place

    from lepton_torch._bridge._registry import Node

_KEY = "onnx"


@contextmanager
def named(node: Node) -> Iterator[None]:
    """Mark the nodes that are traced inside as a node's translation."""
    told = {"operator": node.operator, "place": node.place, "outputs": list(node.outputs)}
    with preserve_node_meta(), annotate({_KEY: told}):
        yield


def origin_of(place: Place) -> dict[str, Any] | None:
    """Return what a node of a program is the translation of: ``operator``, ``place``, ``outputs``.

    Args:
        place: A node of an exported program; decompositions and passes of torch keep its origin.

    Returns:
        ``None`` if it is no translation of a node of the graph.
    """
    found = (place.meta.get("custom") or {}).get(_KEY)
    return dict(found) if found else None


def value_names(program: ExportedProgram) -> dict[str, str]:
    """Return names of nodes of a program by the names of the graph's values that they compute.

    A value is left out where it has no tensor of its own: constants, sizes, and the results of
    nodes with several, unless they are taken apart one by one.
    """
    found: dict[str, str] = {}
    for place in program.graph.nodes:
        origin = origin_of(place)
        if origin is None:
            continue
        outputs = [name for name in origin["outputs"] if name]
        leaves = [user for user in place.users if origin_of(user) != origin]
        if not leaves:
            continue
        if len(origin["outputs"]) == 1:
            found[outputs[0]] = place.name
        elif _is_part(place) and place.args[1] < len(origin["outputs"]):
            name = origin["outputs"][place.args[1]]
            if name:
                found[name] = place.name
    return found


def _is_part(place: Place) -> bool:
    """Tell whether a node takes one result out of several, such as a chunk of a split."""
    import operator

    return place.op == "call_function" and place.target is operator.getitem


__all__ = ["named", "origin_of", "value_names"]
