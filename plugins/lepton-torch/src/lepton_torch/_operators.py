"""Operators of an exported program: how often, from which line, and whether ONNX has them.

The exporter's own registry is asked, not a list of ours. It lies in private modules of torch
(``torch.onnx._internal.exporter``); where a version of torch has moved them, the answer is
"unknown" and a conversion shows what it can.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import ConversionError
from lepton_core.types import OperatorUse
from lepton_torch._chatter import captured
from lepton_torch._usercode import describe_frame, parse_stack, pick_frame

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

_RANDOM = torch.Tag.nondeterministic_seeded


@dataclass(frozen=True)
class Missing:
    """An operator that the exporter cannot translate.

    Attributes:
        operator: As the program uses it (``"aten.linalg_eigh.default"``).
        lowered: What it became on the way, where the translation is missing.
        where: The user's source line.
    """

    operator: str
    lowered: str
    where: str


def source_line(node: torch.fx.Node, root: Path | None = None) -> str:
    """Return the user's line that a node comes from, or ``""``."""
    frame = pick_frame(parse_stack(node.meta.get("stack_trace")), root)
    return describe_frame(frame, root)


def all_calls(exported: ExportedProgram) -> list[torch.fx.Node]:
    """Return the operator calls of the program, those of nested graphs (cond, …) included."""
    return [
        node
        for module in exported.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function"
        and isinstance(node.target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator))
    ]


@cache
def _registry(opset: int) -> Any:  # noqa: ANN401 - torch's private class
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with captured():
        return ONNXRegistry().from_torchlib(opset_version=opset)


def missing_operators(
    exported: ExportedProgram, opset: int, root: Path | None = None
) -> list[Missing] | None:
    """Return what the dynamo exporter has no translation for; ``None`` if torch cannot tell.

    The program is lowered with the exporter's own table of decompositions, then each remaining
    operator is looked up; the original operator is found through the trail that torch keeps.

    Args:
        exported: The program.
        opset: ONNX opset asked for.
        root: Folder of the user's code.
    """
    try:
        from torch.onnx._internal.exporter import _dispatching, _fx_passes

        registry = _registry(opset)
        with captured():
            lowered = _fx_passes.decompose_with_registry(exported, registry)
            _fx_passes.remove_assertion_nodes(lowered.graph_module)
        dispatch = _dispatching.dispatch
    except Exception:  # the private interface has moved, or the program cannot be lowered
        return None
    originals = {node.name: node for node in all_calls(exported)}
    found = []
    for node in all_calls(lowered):
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        if dispatch(node, registry)[0] is None:
            origin = _origin(node, originals)
            found.append(Missing(str(origin.target), str(node.target), source_line(origin, root)))
    return found


def _origin(node: torch.fx.Node, originals: dict[str, torch.fx.Node]) -> torch.fx.Node:
    trail = list(node.meta.get("from_node") or ())
    while trail:
        step = trail.pop()
        if step.name in originals:
            return originals[step.name]
        trail.extend(getattr(step, "from_node", None) or ())
    return originals.get(node.name, node)


def list_operators(
    exported: ExportedProgram, missing: list[Missing] | None, root: Path | None = None
) -> tuple[OperatorUse, ...]:
    """Return the operators in use, the most frequent first.

    Args:
        exported: The program.
        missing: What :func:`missing_operators` found.
        root: Folder of the user's code.
    """
    calls = all_calls(exported)
    counts = Counter(str(node.target) for node in calls)
    lines: dict[str, str] = {}
    for node in calls:
        lines.setdefault(str(node.target), source_line(node, root))
    absent = {m.operator: m for m in missing or ()}
    uses = []
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        gap = absent.get(name)
        note = ""
        if gap is not None:
            inside = "" if gap.lowered == name else f" (becomes {gap.lowered})"
            note = f"the ONNX exporter has no translation{inside}"
        known = None if missing is None else gap is None
        uses.append(OperatorUse(name, count, lines[name], known, note))
    return tuple(uses)


def random_operators(exported: ExportedProgram, root: Path | None = None) -> list[str]:
    """Return operators that draw random numbers, each with the user's line."""
    return [
        f"{node.target}" + (f" ({line})" if (line := source_line(node, root)) else "")
        for node in all_calls(exported)
        if isinstance(node.target, torch._ops.OpOverload)
        and _RANDOM in node.target.tags
        and not _leaves_nothing_out(node)
    ]


def _leaves_nothing_out(node: torch.fx.Node) -> bool:
    """Tell whether an operator that may drop values out drops none, as when it does not train."""
    given = dict(node.kwargs)
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = node.args[place] if place < len(node.args) else argument.default_value
        given.setdefault(argument.name, value)
    rates = [given[name] for name in ("dropout", "dropout_p") if name in given]
    return given.get("train") is False or rates == [0]


def refuse_state(exported: ExportedProgram, root: Path | None = None) -> None:
    """Refuse a program that writes to its own buffers.

    Raises:
        ConversionError: ``forward`` changes a buffer; names it and the user's line.
    """
    buffers = exported.graph_signature.inputs_to_buffers
    found = dict.fromkeys(exported.graph_signature.buffers_to_mutate.values(), "")
    for node in all_calls(exported):
        schema = getattr(node.target, "_schema", None)
        for argument, value in zip(schema.arguments if schema else (), node.args, strict=False):
            info = argument.alias_info
            name = getattr(value, "name", None)
            if info is not None and info.is_write and name in buffers:
                found[buffers[name]] = found.get(buffers[name]) or source_line(node, root)
    if not found:
        return
    name, place = next(iter(found.items()))
    raise ConversionError(
        "LPT-CONV-104",
        f"forward changes the buffer {name!r}" + (f" at {place}" if place else ""),
        cause="An exported model is a function of its inputs; runtimes would each start from "
        "the saved value and drift from the module.",
        remedy="Pass the state in and out as tensors, or stop updating it in eval mode.",
        details={"where": place, "buffers": sorted(found)},
    )
