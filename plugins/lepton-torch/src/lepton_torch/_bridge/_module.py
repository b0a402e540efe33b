"""Walks a graph node by node as a torch module that ``torch.export`` can trace."""

from __future__ import annotations

import keyword
import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from lepton_core.errors import ConversionError, LeptonError
from lepton_torch._bridge._graph import Graph, live
from lepton_torch._bridge._known import KNOWN, MOST
from lepton_torch._bridge._names import named
from lepton_torch._bridge._registry import OPERATORS, Node, Operator
from lepton_torch._bridge._values import Known, Value, to_numpy, to_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FOLD_INPUT = 1 << 16
_FOLD_OUTPUT = 1 << 20
"""Bytes of constants up to which a node is computed once, and up to which its result is kept."""
_NEVER_FOLDED = {
    "QuantizeLinear",  # the recipe's integers and scales must stay visible
    "DequantizeLinear",
    "Bernoulli",
    "RandomNormalLike",
    "RandomUniformLike",
}


class BridgeModule(nn.Module):
    """An ONNX graph as a module.

    Weights are parameters and buffers under the names of the initializers, one each, however many
    nodes use them. :meth:`forward` takes the inputs in the graph's order and returns a tuple of
    the outputs in the graph's order.
    """

    def __init__(self, graph: Graph, overrides: Mapping[str, Operator] | None = None) -> None:
        """Fold what is constant; weights are registered by :meth:`register`.

        Args:
            graph: The graph.
            overrides: Translations to use in the place of the table's, by operator.

        Raises:
            ConversionError: A constant node cannot be computed.
        """
        super().__init__()
        self._table = {**OPERATORS, **(overrides or {})}
        self._graph = fold(graph, self._table)
        self._paths: dict[str, str] = {}
        self.used: set[str] = set()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs.

        Raises:
            ConversionError: LPT-CONV-112 (a form that is not covered), 115 (an input must be
                known), 116 (torch refuses a node).
        """
        graph = self._graph
        values: dict[str, Value] = dict(graph.constants)
        values.update(zip((s.name for s in graph.signature.inputs), inputs, strict=True))
        for node in graph.nodes:
            given = [values[n] if n else None for n in node.inputs]
            results = evaluate(node, given, self._tensor, table=self._table)
            values.update(zip(node.outputs, results, strict=False))
        own = {id(value) for value in inputs}
        outputs = [self._tensor(values[s.name]) for s in graph.signature.outputs]
        return tuple(out.clone() if id(out) in own else out for out in outputs)

    def _tensor(self, value: Value) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        if not value.name:
            return value.tensor()
        self.used.add(value.name)
        path = self._paths.get(value.name)
        if path is None:  # before registration
            return value.tensor()
        owner, _, leaf = path.rpartition(".")
        found = getattr(self.get_submodule(owner), leaf)
        assert isinstance(found, torch.Tensor)  # noqa: S101 - what register put there
        return found

    @property
    def initializers(self) -> dict[str, str]:
        """Name in the graph of every parameter and buffer, by its own name."""
        return {path: name for name, path in self._paths.items()}

    def register(self) -> None:
        """Make a parameter or buffer of every constant that :meth:`forward` used as a tensor."""
        for name in sorted(self.used):
            constant = self._graph.constants[name]
            owner: nn.Module = self
            *folders, leaf = _path(name)
            for folder in folders:
                if folder not in owner._modules:
                    owner.add_module(folder, nn.Module())
                owner = owner.get_submodule(folder)
            while hasattr(owner, leaf):  # such as a method of the module's
                leaf += "_"
            tensor = to_torch(constant.values)
            own = replace(constant, values=to_numpy(tensor))  # the file's copy may go
            self._graph.constants[name] = own
            if tensor.is_floating_point():
                owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
            else:
                owner.register_buffer(leaf, tensor)
            self._paths[name] = ".".join((*folders, leaf))


def _path(name: str) -> list[str]:
    """Split an initializer's name into the modules that hold it and its own name."""
    cleaned = "".join(c if c.isalnum() or c in "_." else "_" for c in name)
    parts = [part for part in cleaned.split(".") if part] or ["weight"]
    taken = ("forward", "training")  # and what Python's own grammar keeps for itself
    return [
        f"w{p}" if p in taken or p.startswith("_") or keyword.iskeyword(p) else p for p in parts
    ]


def fold(graph: Graph, table: Mapping[str, Operator] = OPERATORS) -> Graph:
    """Compute the small nodes whose inputs are all constant, once.

    Large weights are left as they are: a transposed weight is a view when the program runs, and
    stays one tensor for all who use it.
    """
    constants = dict(graph.constants)
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    kept: list[Node] = []
    for node in graph.nodes:
        if not _foldable(node, constants, uses):
            kept.append(node)
            continue
        inputs = [constants[n] if n else None for n in node.inputs]
        with torch.no_grad():
            results = evaluate(node, inputs, _detached, known=False, table=table)
        if sum(_bytes(value) for value in results) > _FOLD_OUTPUT:
            kept.append(node)
            continue
        for name, value in zip(node.outputs, results, strict=False):
            constants[name] = _constant(name, value)
    outputs = [s.name for s in graph.signature.outputs]
    nodes = live(kept, outputs)
    needed = {name for node in nodes for name in node.inputs} | set(outputs)
    constants = {name: value for name, value in constants.items() if name in needed}
    return Graph(nodes, constants, graph.signature, graph.opset)


def _detached(value: Value) -> torch.Tensor:
    return value.tensor() if isinstance(value, Known) else value


def _foldable(node: Node, constants: dict[str, Known], uses: Counter[str]) -> bool:
    named = [name for name in node.inputs if name]
    if node.operator in _NEVER_FOLDED or not named or any(n not in constants for n in named):
        return False
    if any(uses[n] > 1 and constants[n].weight for n in named):
        return False
    return sum(constants[n].values.nbytes for n in named) <= _FOLD_INPUT


def _bytes(value: Value) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else value.values.size * 8


def _constant(name: str, value: Value) -> Known:
    tensor = value.tensor() if isinstance(value, Known) else value
    return Known(to_numpy(tensor.contiguous()), tensor.dtype, name)


def evaluate(
    node: Node,
    inputs: Sequence[Value | None],
    as_tensor: Callable[[Value], torch.Tensor],
    known: bool = True,
    table: Mapping[str, Operator] = OPERATORS,
) -> list[Value]:
    """Compute a node.

    Args:
        node: The node.
        inputs: Its inputs; ``None`` where one is left out.
        as_tensor: Turns a constant into its tensor.
        known: Whether shape arithmetic may stay outside of tensors.
        table: Translations by operator.

    Raises:
        ConversionError: It has no translation in this form, or torch refuses it.
    """
    try:
        if known and (results := _known_results(node, inputs)) is not None:
            return results
        entry = table[node.operator]
        given: list[Value | None] = []
        for i, value in enumerate(inputs):
            if i in entry.known:
                given.append(_required(node, i, value))
            elif value is None or i in entry.either:
                given.append(value)
            else:
                given.append(as_tensor(value))
        with named(node):
            results = entry.compute(node, *given)
    except LeptonError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise ConversionError(
            "LPT-CONV-116",
            f"{node.operator} at {node.place} fails in torch",
            cause=f"{type(error).__name__}: {text}",
            remedy="Check the model with `lepton check`; if onnxruntime runs it, report this.",
            details={"operator": node.operator, "where": node.place},
        ) from error
    return list(results) if isinstance(results, tuple | list) else [results]


def _known_results(node: Node, inputs: Sequence[Value | None]) -> list[Value] | None:
    rule = KNOWN.get(node.operator)
    small = all(
        value is None or (isinstance(value, Known) and math.prod(value.values.shape) <= MOST)
        for value in inputs
    )
    if rule is None or not small or not inputs:
        return None
    try:
        found = rule(node, *inputs)
    except (TypeError, ValueError, ArithmeticError):
        return None  # tensors may still do
    if found is None:
        return None
    return list(found) if isinstance(found, list) else [found]


def _required(node: Node, position: int, value: Value | None) -> Known | None:
    if value is None or isinstance(value, Known):
        return value
    name = node.inputs[position]
    raise ConversionError(
        "LPT-CONV-115",
        f"{node.operator} at {node.place} needs to know its input {name!r} when it is translated",
        cause="It follows from the values of the model's inputs, not from their shapes alone.",
        remedy="Make it a constant of the model, or compute it from shapes.",
        details={"operator": node.operator, "where": node.place, "input": name},
    )


__all__ = ["BridgeModule", "evaluate", "fold"]
