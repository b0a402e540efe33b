"""What Google's compiler for Edge TPUs asks of a file, checked before it is shipped.

It takes files whose operators have int8 and fixed sizes alone, and maps them up to the first one
that it does not support: that one and everything after it run on the host's CPU. So a file for
that device is checked to have no operator that reads or gives floats and no size that is left
open, and each operator is held against Google's table (:mod:`lepton_tflite._edgetpu_rules`). The
compiler itself is not run: it may leave more to the CPU, for the chip's memory for instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.errors import ConversionError
from lepton_tflite._edgetpu_rules import SOURCE, UNCERTAIN, Seen, has_a_way, see, why_not
from lepton_tflite._execution import sources_of
from lepton_tflite._flatbuffer import DTYPES, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lepton_core.types import InspectResult

_NAMED = 8


@dataclass(frozen=True, slots=True)
class Placed:
    """An operator of a file, and whether an Edge TPU would run it.

    Attributes:
        operator: The format's name (``"CONV_2D"``).
        node: Name of its first output.
        sources: Names of the pivot's values that it computes, where the file tells.
        why_not: Why it is not mapped; empty for those that are, and for those after a cut.
        after: Whether it is left to the CPU only because it comes after one that is not mapped.
        uncertain: Why it may not be mapped all the same.
    """

    operator: str
    node: str
    sources: tuple[str, ...]
    why_not: str = ""
    after: bool = False
    uncertain: str = ""

    @property
    def mapped(self) -> bool:
        """Whether it runs on the chip."""
        return not self.why_not and not self.after

    def __str__(self) -> str:
        """Return the operator with its place in the model."""
        place = ", ".join(self.sources) or self.node
        return f"{self.operator} ({place})" if place else self.operator


def placed(model: Any) -> tuple[Placed, ...]:  # noqa: ANN401 - a generated class
    """Return where each operator of a file would run, in their order."""
    graph, found, cut = model.subgraphs[0], [], False
    for operator in graph.operators:
        seen = see(model, graph, operator)
        node = _node(seen)
        reason = why_not(seen)
        found.append(
            Placed(
                seen.name, node, tuple(sources_of(node)), reason, cut and not reason,
                "" if reason or cut else UNCERTAIN.get(seen.name, ""),
            )
        )  # fmt: skip
        cut = cut or bool(reason)
    return tuple(found)


def _node(seen: Seen) -> str:
    """Return the name of the first output; operators that write a variable have none."""
    return text(seen.outputs[0].name) if seen.outputs else ""


def fact(nodes: tuple[Placed, ...]) -> dict[str, Any]:
    """Return what a record keeps: how many are mapped, and each one that is not, with its reason.

    ``first_cut`` is the first operator that is not mapped; all after it run on the CPU.
    """

    def entry(one: Placed) -> dict[str, Any]:
        why = one.why_not or ("it comes after the first cut" if one.after else one.uncertain)
        return {
            "operator": one.operator,
            "node": one.node,
            "sources": list(one.sources),
            "why": why,
        }

    first = next((one for one in nodes if one.why_not), None)
    return {
        "mapped": sum(one.mapped for one in nodes),
        "of": len(nodes),
        "first_cut": entry(first) if first else None,
        "cpu": [entry(one) for one in nodes if not one.mapped],
        "uncertain": [entry(one) for one in nodes if one.uncertain],
        "source": SOURCE,
        "compiler": "not run",
    }


def sentences(nodes: tuple[Placed, ...]) -> Iterator[str]:
    """Say where a file would be cut, and which operators are the reason; nothing if it is not."""
    reasons = [one for one in nodes if one.why_not]
    if not reasons:
        return
    mapped = sum(one.mapped for one in nodes)
    yield (
        f"An Edge TPU would run {mapped} of {len(nodes)} operators: the first cut is "
        f"{reasons[0]}, and it and all after it run on the CPU."
    )
    for one in reasons[:_NAMED]:
        yield f"{one} is not mapped: {one.why_not}."
    if len(reasons) > _NAMED:
        yield f"{len(reasons) - _NAMED} more operators are not mapped."


def refuse_floats(model: Any) -> None:  # noqa: ANN401 - a generated class
    """Refuse a file that the compiler would refuse.

    Raises:
        ConversionError: LPT-CONV-415, with the operators that are float or of open sizes.
    """
    graph = model.subgraphs[0]
    found, opened, places = [], [], []
    for operator in graph.operators:
        seen = see(model, graph, operator)
        ends = [tensor for tensor in (*seen.inputs, *seen.outputs) if tensor is not None]
        name, node = seen.name, _node(seen)
        floats = {DTYPES.get(tensor.type) for tensor in ends} & {"float32", "float16"}
        loose = any(t.shapeSignature is not None and -1 in t.shapeSignature for t in ends)
        found += [name] if floats else []
        opened += [name] if loose else []
        if floats or loose:
            places.append(str(Placed(name, node, tuple(sources_of(node)))))
    if opened:
        raise ConversionError(
            "LPT-CONV-415",
            "The file leaves sizes open, which an Edge TPU does not",
            cause=f"Open: {_some(places)}.",
            remedy="Give every dimension a size: batch=1, and shapes for others.",
            details={"open": list(dict.fromkeys(opened)), "nodes": places},
        )
    if found:
        raise ConversionError(
            "LPT-CONV-415",
            "The file computes with floats, which an Edge TPU does not",
            cause=f"Float: {_some(places)}.",
            remedy="Replace the operators that the recipe keeps in float (its kept_float says "
            "why), or build for tflite:cpu.",
            details={"float": list(dict.fromkeys(found)), "nodes": places},
        )


def _some(places: list[str]) -> str:
    more = len(places) - _NAMED
    return ", ".join(places[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def source_reasons(found: InspectResult) -> Iterator[str]:
    """Say which operators of a source an Edge TPU does not run, and where it would be cut first.

    Judged by their names; whether the conditions of the others hold is seen in the file.
    """
    wrong = [use for use in found.operators if not has_a_way(use.name)]
    if wrong and found.domain == "onnx":
        yield from _first_cut(found.model.path, {use.name for use in wrong})
    for use in wrong:
        place = f", first at {use.where}" if use.where else ""
        yield f"An Edge TPU does not run {use.name} ({use.count} times{place})."


def _first_cut(path: str, wrong: Iterable[str]) -> Iterator[str]:
    """Say at which node of an ONNX file the first cut is, and how many come before it."""
    from lepton_core.errors import LeptonError
    from lepton_onnx import pivot

    try:
        nodes = pivot.read(path).graph.node
    except (LeptonError, OSError):  # an inspection may be of a file that is gone
        return
    names = [node.op_type for node in nodes]
    bad = {name.rpartition("::")[2] for name in wrong}
    number = next((i for i, name in enumerate(names) if name in bad), None)
    if number is not None:
        node = nodes[number]
        place = node.name or next(iter(node.output), "")
        yield (
            f"The first cut for an Edge TPU is {place!r} ({node.op_type}): {number} of "
            f"{len(names)} nodes come before it, and it and all after it would run on the CPU."
        )


__all__ = ["Placed", "fact", "placed", "refuse_floats", "sentences", "source_reasons"]
