"""A program's graph while rewrites change it."""

from __future__ import annotations

import contextlib
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import Node

from lepton_core.rewrites import is_forbidden, matches
from lepton_torch._operators import source_line
from lepton_torch._retrace import editable, mutating, placeholders, retrace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.fx import GraphModule

    from lepton_core.capabilities import Constraints
    from lepton_torch._program import Program

_KEPT_META = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack")


class Editor:
    """A program's graph while rewrites work on it.

    Args:
        program: The program.
        constraints: What the target declares.
        fixed: Sizes that symbolic dimensions are to get.
        bounds: New bounds of symbolic dimensions that stay.

    Attributes:
        graph_module: The graph with its weights as attributes.
        constraints: What the target declares.
        changes: What the running rewrite changed: the words and the place.
        left: What it could not change: the words and the place.
    """

    def __init__(
        self,
        program: Program,
        constraints: Constraints,
        fixed: Mapping[str, int] | None = None,
        bounds: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.program = program
        self.constraints = constraints
        self.fixed = dict(fixed or {})
        self.bounds = dict(bounds or {})
        self.graph_module: GraphModule = editable(program.exported)
        self.changes: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self._origin: Node | None = None
        self._mode: tuple[GraphModule, Any] | None = None

    # --- looking ------------------------------------------------------------------------------

    def find(self, *names: str) -> list[Node]:
        """Return the calls of operators, any overload, in order.

        Calls inside of nested graphs (``torch.cond``) are not among them; they are noted as left.

        Args:
            names: ``"aten.hardswish"``, …
        """
        found = [n for n in self.graph_module.graph.nodes if _is_call(n, names)]
        for module in self.graph_module.modules():
            if module is not self.graph_module and isinstance(module, torch.fx.GraphModule):
                for node in module.graph.nodes:
                    if _is_call(node, names):
                        self.leave(node, "it stands inside of control flow")
        return found

    def forbids(self, node: Node) -> bool:
        """Tell whether the target forbids the operator of a call."""
        return is_forbidden(str(node.target), self.constraints)

    def arguments(self, node: Node) -> dict[str, Any]:
        """Return every argument of an operator call by its name in the schema."""
        found: dict[str, Any] = {}
        for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
            if position < len(node.args):
                found[argument.name] = node.args[position]
            elif argument.name in node.kwargs:
                found[argument.name] = node.kwargs[argument.name]
            else:
                found[argument.name] = argument.default_value
        return found

    def shape(self, node: Node) -> tuple[Any, ...]:
        """Return the dimensions of a tensor; symbolic ones are ``torch.SymInt``."""
        return tuple(node.meta["val"].shape)

    def dtype(self, node: Node) -> torch.dtype:
        """Return the dtype of a tensor."""
        return node.meta["val"].dtype  # type: ignore[no-any-return]

    def weight(self, node: object) -> torch.Tensor | None:
        """Return the values of a weight, or ``None`` if *node* is computed or an input."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        value: Any = self.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        return value.detach() if isinstance(value, torch.Tensor) else None

    def is_shared(self, node: Node) -> bool:
        """Tell whether a weight is read at more than one place, also under another name."""
        value = self.weight(node)
        if value is None or len(node.users) != 1:
            return True
        place = value.untyped_storage().data_ptr()
        others = (n for n in self.graph_module.graph.nodes if n.op == "get_attr" and n is not node)
        return any(
            other.users
            and (held := self.weight(other)) is not None
            and held.untyped_storage().data_ptr() == place
            for other in others
        )

    @property
    def writes(self) -> bool:
        """Whether any operator writes into its input, so that copies matter."""
        return bool(mutating(self.graph_module))

    def where(self, node: Node) -> str:
        """Return the user's line that a call comes from, else its module, else its name."""
        line = source_line(node)
        if line:
            return line
        modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
        return f"module {modules[-1]}" if modules else f"node {node.name}"

    # --- changing -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def before(self, node: Node) -> Iterator[None]:
        """Insert new calls in front of *node*; they inherit its source line."""
        kept, self._origin = self._origin, node
        try:
            with self.graph_module.graph.inserting_before(node):
                yield
        finally:
            self._origin = kept

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:  # noqa: ANN401
        """Add an operator call and infer its result; inside :meth:`before` only."""
        node = self.graph_module.graph.call_function(target, args, kwargs)
        self._inherit(node)
        arguments = torch.fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        with self._fake_mode() or contextlib.nullcontext():
            node.meta["val"] = target(*arguments[0], **arguments[1])
        return node

    def add_weight(self, name: str, value: torch.Tensor) -> Node:
        """Add a weight and a read of it in front of everything that computes.

        Args:
            name: Its name (``"features.0.bias"``); made unique if it is taken.
            value: Its values.
        """
        owner, _, last = name.rpartition(".")
        parent: Any = self.graph_module
        for part in filter(None, owner.split(".")):
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        unique, count = last, 1
        while hasattr(parent, unique):
            unique, count = f"{last}_{count}", count + 1
        parent.register_parameter(unique, nn.Parameter(value, requires_grad=False))
        graph = self.graph_module.graph
        anchor = next(n for n in graph.nodes if n.op not in ("get_attr", "placeholder"))
        with graph.inserting_before(anchor):
            node = graph.get_attr(f"{owner}.{unique}" if owner else unique)
        self._set_value(node, value)
        return node

    def set_weight(self, node: Node, value: torch.Tensor) -> None:
        """Give a weight that is not shared other values of the same shape."""
        owner, _, last = str(node.target).rpartition(".")
        parent = self.graph_module.get_submodule(owner)
        delattr(parent, last)
        parent.register_parameter(last, nn.Parameter(value, requires_grad=False))
        self._set_value(node, value)

    def _set_value(self, node: Node, value: torch.Tensor) -> None:
        mode = self._fake_mode()
        node.meta["val"] = mode.from_tensor(value, static_shapes=True) if mode else value

    def _fake_mode(self) -> Any:  # noqa: ANN401 - torch's private class
        """Return the mode that infers shapes for this graph, looked up once per graph."""
        if self._mode is None or self._mode[0] is not self.graph_module:
            values = [n.meta.get("val") for n in self.graph_module.graph.nodes]
            self._mode = (self.graph_module, torch._guards.detect_fake_mode(values))
        return self._mode[1]

    def _inherit(self, node: Node) -> None:
        if self._origin is not None:
            kept = {k: v for k, v in self._origin.meta.items() if k in _KEPT_META}
            node.meta.update(kept)

    def replace(self, node: Node, new: Node, what: str = "") -> None:
        """Put *new* in the place of *node* and note the change.

        Args:
            node: A call, or one that returns several tensors of which the first is used.
            new: What is used instead.
            what: What was done, for the report; the operators' names by default.
        """
        self.changed(node, what or f"{_short(node)} written in primitive operators")
        for user in list(node.users) if isinstance(node.meta.get("val"), (tuple, list)) else ():
            if user.target is operator.getitem and user.args[1] == 0:
                user.replace_all_uses_with(new)
                self.graph_module.graph.erase_node(user)
        if not isinstance(node.meta.get("val"), (tuple, list)):
            node.replace_all_uses_with(new)
        for user in list(node.users):  # assertions, and results that nobody reads
            self.graph_module.graph.erase_node(user)
        self.graph_module.graph.erase_node(node)

    def only_first(self, node: Node) -> bool:
        """Tell whether of several results only the first is used."""
        return all(
            user.target is operator.getitem and (user.args[1] == 0 or not user.users)
            for user in node.users
        )

    def changed(self, node: Node, what: str) -> None:
        """Note a change."""
        self.changes.append((what, self.where(node)))

    def leave(self, node: Node, why: str) -> None:
        """Note that something cannot be changed, and why."""
        self.left.append((f"{_short(node)} stays: {why}", self.where(node)))

    def retrace(self) -> None:
        """Export the graph again with the sizes and bounds that were asked for."""
        self.program = retrace(self.graph_module, self.program, self.fixed, self.bounds)
        self.graph_module = editable(self.program.exported)

    # --- running ------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the graph as it is now.

        Args:
            inputs: Tensors by placeholder.
        """
        self.graph_module.recompile()
        from lepton_torch._retrace import constants

        given = {**inputs, **constants(self.program.exported)}
        with torch.no_grad():
            result = self.graph_module(
                *(given[str(n.target)] for n in placeholders(self.graph_module))
            )
        leaves = torch.utils._pytree.tree_leaves(result)
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _is_call(node: Node, names: tuple[str, ...]) -> bool:
    return node.op == "call_function" and any(matches(str(node.target), name) for name in names)


def _short(node: Node) -> str:
    """Return an operator's name without namespace and overload."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


__all__ = ["Editor"]
