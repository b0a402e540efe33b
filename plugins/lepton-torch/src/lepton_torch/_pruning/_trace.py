"""Walks a program's graph and finds which channels can only be removed together.

Every axis of every tensor is an array of channels (:class:`._classes.Classes`), one per index;
``None`` is an axis of which nothing can be removed, such as batch or height. Each operator's rule
says what it does to axes: it joins channels that meet index by index, hands them on in another
order, or pins them. Weights are tensors like any others, so tied and reshaped ones need no care.
What no rule understands pins everything it reads and is named.

The idea of a dependency graph over layers is that of Fang et al., "DepGraph: Towards Any Structural
Pruning" (CVPR 2023); here it runs over single indices, so that concatenation, splitting, reshaping
and groups are the same thing.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node

from lepton_torch._pruning._classes import NONE, Classes, Cut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch.fx import GraphModule

    Ids = NDArray[np.int64]

Axis = Any  # Ids | None; numpy's types do not nest in aliases at run time
Axes = tuple[Axis, ...]
_MAX_ROUNDS = 400
"""Splits of axes that are tried the other way before the rest is left as it is."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator whose weight makes channels.

    Attributes:
        name: The weight's name in the program (``"features.0.weight"``).
        op: The operator (``"conv2d"``).
        ids: The channels that it makes, one per index of the weight's output axis.
        node: Its call.
    """

    name: str
    op: str
    ids: Ids
    node: Node


@dataclass(frozen=True)
class Reader:
    """An operator whose weight adds up channels, so that a zero there is as good as none.

    Attributes:
        source: The value that it reads.
        source_axis: Axis of the value that is added up.
        weight: Name of the weight.
        axis: Axis of the weight that is added up; ``None`` if groups of a convolution are.
        ids: The channels along the value's axis.
    """

    source: Node
    source_axis: int
    weight: str
    axis: int | None
    ids: Ids


@dataclass
class Structure:
    """What can be removed from a graph.

    Attributes:
        graph_module: The graph.
        classes: Channels and what goes together.
        weights: Axes of every weight and constant, by name.
        layers: What makes channels, in order.
        readers: What adds channels up.
        edits: What to change in which call when channels go.
        costs: Multiply-accumulates of every product: a list of ``(size, channels)`` whose kept
            sizes are multiplied.
        left: Operators that no rule understands, with the reason.
        shapes: Shape by node, of the inputs that were run.
        rows: Size of the batch that was run.
    """

    graph_module: GraphModule
    classes: Classes
    shapes: dict[Node, Any]
    rows: int = 1
    weights: dict[str, Axes] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    edits: list[tuple[Node, Callable[[Node, Cut], None]]] = field(default_factory=list)
    costs: list[list[tuple[int, Axis]]] = field(default_factory=list)
    left: list[tuple[Node, str]] = field(default_factory=list)

    def macs(self, cut: Cut | None = None) -> int:
        """Return the multiply-accumulates of one row, after a cut."""
        total = 0
        for factors in self.costs:
            product = 1
            for size, ids in factors:
                product *= size if ids is None or cut is None else cut.count(ids)
            total += product
        return total // self.rows

    def parameters(self, cut: Cut | None = None) -> int:
        """Return the number of trained values, after a cut; tied weights count once."""
        total, seen = 0, set()
        for name, weight in self.graph_module.named_parameters(remove_duplicate=False):
            if name not in self.weights or weight.data_ptr() in seen:
                continue
            seen.add(weight.data_ptr())
            product = 1
            for size, ids in zip(weight.shape, self.weights[name], strict=True):
                product *= size if ids is None or cut is None else cut.count(ids)
            total += product
        return total


class _Shapes(Interpreter):
    """Runs a graph and keeps the shape of every value."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - whatever the graph yields
        value = super().run_node(n)
        self.found[n] = torch.utils._pytree.tree_map(
            lambda v: tuple(v.shape) if isinstance(v, torch.Tensor) else v, value
        )
        return value


class Tracer:
    """One walk over a graph, under given choices.

    Args:
        structure: What is filled in.
        options: For operators that can be read in several ways, which one is taken.
    """

    def __init__(self, structure: Structure, options: Mapping[str, int]) -> None:
        self.structure = structure
        self.classes = structure.classes
        self.options = options
        self.choices: dict[str, tuple[int, list[Ids]]] = {}
        self.env: dict[Node, Any] = {}
        self.node: Node
        self._aliases: dict[tuple[Any, ...], Axes] = {}

    # --- what rules use -----------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.structure.shapes[node]  # type: ignore[no-any-return]

    def axes(self, node: Any) -> Axes:  # noqa: ANN401 - arguments of a call
        """Return the axes of a tensor."""
        found = self.env[node]
        if not isinstance(found, tuple):
            msg = f"{node} is no tensor"
            raise TypeError(msg)
        return found

    def join(self, left: Axis, right: Axis, why: str = "") -> Axis:
        """Make two axes that meet index by index one; return it."""
        why = why or f"{self.where()} joins it with values that stay"
        if left is None or right is None:
            self.classes.pin(left if right is None else right, why)
            return None
        self.classes.join(left, right, why)
        return left

    def pin(self, axis: Axis, why: str) -> None:
        """Let every channel of an axis stay."""
        self.classes.pin(axis, why)

    def choose(self, count: int) -> int:
        """Return which of *count* ways to read the running operator is taken."""
        taken = min(self.options.get(self.node.name, 0), count - 1)
        self.choices.setdefault(self.node.name, (count, []))
        return taken

    def chosen(self, ids: Ids) -> None:
        """Note the channels that follow from the choice for the running operator."""
        self.choices[self.node.name][1].append(ids)

    def edit(self, change: Callable[[Node, Cut], None]) -> None:
        """Note what to change in the running call when channels go."""
        self.structure.edits.append((self.node, change))

    def set_argument(self, position: int, name: str, value: Callable[[Cut], Any]) -> None:
        """Note an argument of the running call that depends on what is kept."""
        self.change_argument(position, name, lambda _, cut: value(cut))

    def change_argument(self, position: int, name: str, value: Callable[[Any, Cut], Any]) -> None:
        """Note an argument of the running call that follows from its own value and a cut."""

        def change(node: Node, cut: Cut) -> None:
            if position < len(node.args):
                node.update_arg(position, value(node.args[position], cut))
            else:
                node.update_kwarg(name, value(node.kwargs.get(name), cut))

        self.edit(change)

    def cost(self, *factors: tuple[int, Axis]) -> None:
        """Note a product's multiply-accumulates."""
        self.structure.costs.append(list(factors))

    def makes(self, weight: Any, ids: Axis) -> None:  # noqa: ANN401 - an argument
        """Note that the running call's weight makes channels."""
        if isinstance(weight, Node) and weight.op == "get_attr" and ids is not None:
            op = short(self.node)
            self.structure.layers.append(Layer(str(weight.target), op, ids, self.node))

    def reads(self, source: Node, axis: int, weight: Any, weight_axis: int | None) -> None:  # noqa: ANN401
        """Note that the running call's weight adds up an axis of a value."""
        ids = self.axes(source)[axis]
        if isinstance(weight, Node) and weight.op == "get_attr" and ids is not None:
            name = str(weight.target)
            self.structure.readers.append(
                Reader(source, axis % len(self.axes(source)), name, weight_axis, ids)
            )

    def where(self) -> str:
        """Return the running operator's name for reasons."""
        return f"{short(self.node)} ({self.node.name})"

    # --- the walk -----------------------------------------------------------------------------

    def walk(self) -> None:
        """Go through the graph once."""
        for node in self.structure.graph_module.graph.nodes:
            self.node = node
            self.env[node] = self._visit(node)

    def _visit(self, node: Node) -> Any:  # noqa: ANN401, PLR0911 - axes; one per kind of node
        if node.op == "placeholder":
            return nothing(self.structure.shapes[node])
        if node.op == "get_attr":
            return self._weight(node)
        if node.op == "output":
            self._pin_all(node, "it is an output of the model")
            return None
        if node.target is operator.getitem:
            held = self.env[node.all_input_nodes[0]]
            if isinstance(held, list):
                return held[node.args[1]]  # type: ignore[index]
            return nothing(self.structure.shapes[node])
        rule = RULES.get(short(node)) if _is_aten(node) else None
        if rule is None and _is_pointwise(node):
            rule = RULES["pointwise"]
        if rule is None:
            return self._unknown(node)
        found = rule(self, node)
        return self._unknown(node) if found is NotImplemented else found

    def _weight(self, node: Node) -> Any:  # noqa: ANN401
        value: Any = self.structure.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            return None
        name = str(node.target)
        if name not in self.structure.weights:
            key = (value.data_ptr(), tuple(value.shape), value.stride())
            if not value.numel() or key not in self._aliases:
                self._aliases[key] = tuple(self.classes.fresh(n) for n in value.shape)
            self.structure.weights[name] = self._aliases[key]
        return self.structure.weights[name]

    def _unknown(self, node: Node) -> Any:  # noqa: ANN401
        if any(_holds(self.env.get(n)) for n in node.all_input_nodes):
            self.structure.left.append((node, f"{short(node)} is not understood"))
            self._pin_all(node, f"{self.where()} is not understood")
        return nothing(self.structure.shapes[node])

    def _pin_all(self, node: Node, why: str) -> None:
        for source in node.all_input_nodes:
            held = self.env.get(source)
            for axes in held if isinstance(held, list) else [held]:
                for axis in axes if isinstance(axes, tuple) else ():
                    self.pin(axis, why)


def nothing(shape: Any) -> Any:  # noqa: ANN401 - a shape or a list of them
    """Return axes of which nothing can be removed, for a shape or for several."""
    if isinstance(shape, list) or (
        isinstance(shape, tuple) and any(isinstance(part, (tuple, list)) for part in shape)
    ):
        return [nothing(part) for part in shape]
    return tuple(None for _ in shape) if isinstance(shape, tuple) else None


def _holds(found: Any) -> bool:  # noqa: ANN401
    many = found if isinstance(found, list) else [found]
    return any(axis is not None for axes in many if isinstance(axes, tuple) for axis in axes)


def short(node: Node) -> str:
    """Return an operator's name without namespace and overload."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _is_aten(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def _is_pointwise(node: Node) -> bool:
    return _is_aten(node) and torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]


RULES: dict[str, Callable[[Tracer, Node], Any]] = {}
"""Rule by operator; it returns the axes of the result, or ``NotImplemented``."""


def rule(*names: str) -> Callable[[Callable[[Tracer, Node], Any]], Callable[[Tracer, Node], Any]]:
    """Register a rule for operators of ``aten``."""

    def register(function: Callable[[Tracer, Node], Any]) -> Callable[[Tracer, Node], Any]:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def arguments(node: Node) -> dict[str, Any]:
    """Return every argument of an operator call by its name in the schema."""
    found: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args):
            found[argument.name] = node.args[position]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found


def trace(graph_module: GraphModule, inputs: Sequence[Any], rows: int) -> Structure:
    """Find out what can be removed from a graph.

    An axis that is split (a width into heads, a width into groups) can be read in several ways;
    the one is taken of which something is left to remove.

    Args:
        graph_module: The graph with its weights as attributes.
        inputs: One set of inputs, in the order of the placeholders; only sizes matter.
        rows: Size of their batch.
    """
    from lepton_torch._pruning import (  # noqa: F401 - they register
        _rules_layers,
        _rules_parts,
        _rules_shapes,
    )

    runner = _Shapes(graph_module)
    with torch.no_grad():
        runner.run(*inputs)
    options: dict[str, int] = defaultdict(int)
    for _ in range(_MAX_ROUNDS):
        structure = Structure(graph_module, Classes(), runner.found, rows)
        tracer = Tracer(structure, options)
        tracer.walk()
        failed = next(
            (
                name
                for name, (count, found) in tracer.choices.items()
                if options[name] + 1 < count
                and not any(len(structure.classes.free(ids)) > 1 for ids in found)
            ),
            None,
        )
        if failed is None:
            break
        options[failed] += 1
    return structure


__all__ = ["NONE", "Axes", "Axis", "Layer", "Reader", "Structure", "Tracer", "arguments", "trace"]
