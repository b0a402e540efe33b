"""From a program to a graph that can be changed, and back by exporting it again.

The graph is the program's own with its weights as attributes (``ExportedProgram.module()``), and
takes its tensors by the names of the placeholders. Exporting it again checks the changed graph,
lifts its weights, infers every shape anew and keeps the user's source lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.export import Dim
from torch.export.graph_signature import ConstantArgument, TensorArgument
from torch.fx.graph import CodeGen

from lepton_core.errors import AdaptError
from lepton_torch._chatter import captured
from lepton_torch._explain import first_line
from lepton_torch._program import Program, describe_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

Bounds = dict[str, tuple[int, int | None]]
_SMALLEST_OPEN = 2
"""torch.export takes sizes 0 and 1 for constants."""


def editable(exported: ExportedProgram) -> GraphModule:
    """Return the program's graph with its weights as attributes, free to be changed.

    In-place operators are replaced by their functional forms where nothing else sees the memory
    they write to; where something may, the whole graph is brought into functional form by torch.
    """
    with captured():
        graph_module = _module(exported)
        if not _functionalise(graph_module):
            graph_module = _module(exported.run_decompositions({}))
    return graph_module


def _module(exported: ExportedProgram) -> GraphModule:
    graph_module: Any = exported.module(check_guards=False)
    graph_module._forward_pre_hooks.clear()  # they compare the call with the program's own form
    graph_module._forward_pre_hooks_with_kwargs.clear()
    graph_module.graph.set_codegen(CodeGen())
    graph_module.recompile()
    return graph_module  # type: ignore[no-any-return]


def mutating(graph_module: GraphModule) -> list[Node]:
    """Return the calls of operators that write into one of their inputs."""
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
    ]


def _functionalise(graph_module: GraphModule) -> bool:
    """Replace in-place operators one by one; tell whether that was enough."""
    for node in mutating(graph_module):
        source = node.args[0]
        functional = _functional_form(node.target)
        if functional is None or not isinstance(source, torch.fx.Node) or len(source.users) != 1:
            return False
        schema = getattr(source.target, "_schema", None)
        if source.op != "call_function" or schema is None:
            return False
        if any(result.alias_info is not None for result in schema.returns):
            return False  # a view: others may see what is written
        node.target = functional
    graph_module.recompile()
    return True


def _functional_form(operator: Any) -> Any:  # noqa: ANN401 - torch's overloads
    packet, _, overload = operator._schema.name.partition("::")[2], "", operator._overloadname
    if not packet.endswith("_") or operator.namespace != "aten":
        return None
    return getattr(getattr(torch.ops.aten, packet.rstrip("_"), None), overload, None)


def placeholders(graph_module: GraphModule) -> list[Node]:
    """Return the inputs of the graph, tensors and constants, in order."""
    return [node for node in graph_module.graph.nodes if node.op == "placeholder"]


def constants(exported: ExportedProgram) -> dict[str, Any]:
    """Return the inputs that the program takes as fixed Python values, by placeholder."""
    return {
        spec.arg.name: spec.arg.value
        for spec in exported.graph_signature.input_specs
        if spec.kind.name == "USER_INPUT" and isinstance(spec.arg, ConstantArgument)
    }


def tensor_inputs(exported: ExportedProgram) -> list[str]:
    """Return the placeholders of the tensor inputs, in the order of the signature."""
    return [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind.name == "USER_INPUT" and isinstance(spec.arg, TensorArgument)
    ]


class Shapes:
    """The symbolic dimensions of a program's inputs.

    Args:
        program: The program; the names of its symbols are those of its signature.

    Attributes:
        names: The user's name by torch's symbol.
        dims: The dimensions by placeholder: numbers and expressions over torch's symbols.
        dtypes: The dtype by placeholder.
        bounds: Smallest and largest size by the user's name.
    """

    def __init__(self, program: Program) -> None:
        values = {n.name: n.meta.get("val") for n in program.exported.graph.nodes}
        self.names: dict[sympy.Symbol, str] = {}
        self.dims: dict[str, list[int | sympy.Expr]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.bounds: Bounds = dict(program.bounds)
        for place, spec in zip(
            tensor_inputs(program.exported), program.signature.inputs, strict=True
        ):
            own: list[int | sympy.Expr] = []
            for size, name in zip(values[place].shape, spec.shape, strict=True):
                expression = size.node.expr if isinstance(size, torch.SymInt) else int(size)
                if isinstance(expression, sympy.Symbol):
                    self.names.setdefault(expression, str(name))
                own.append(expression)
            self.dims[place] = own
            self.dtypes[place] = values[place].dtype

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of the symbolic dimensions."""
        return tuple(dict.fromkeys(self.names.values()))

    def sizes(self, chosen: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor input.

        Args:
            chosen: A size for every symbol.
        """
        numbers = {symbol: chosen[name] for symbol, name in self.names.items()}
        return {
            place: tuple(d if isinstance(d, int) else int(d.xreplace(numbers)) for d in own)
            for place, own in self.dims.items()
        }

    def choose(self, fixed: Mapping[str, int], least: int = _SMALLEST_OPEN) -> dict[str, int]:
        """Return a size for every symbol: the fixed one, or one inside the bounds.

        Open symbols get different sizes where their bounds allow it, so that two of them are not
        taken for one.
        """
        chosen = dict(fixed)
        for name in self.symbols:
            if name not in chosen:
                lower, upper = self.bounds.get(name, (1, None))
                size = max(least, lower)
                while size in chosen.values() and (upper is None or size < upper):
                    size += 1
                chosen[name] = size if upper is None else min(size, upper)
        return chosen


def retrace(
    graph_module: GraphModule,
    program: Program,
    fixed: Mapping[str, int] | None = None,
    bounds: Mapping[str, tuple[int, int]] | None = None,
) -> Program:
    """Export a changed graph again, under the contract of the program that it came from.

    Args:
        graph_module: What :func:`editable` returned, changed.
        program: The program it came from: names, dtypes and symbols.
        fixed: Sizes that symbols get for good.
        bounds: New bounds of symbols that stay.

    Raises:
        AdaptError: LPT-ADAPT-013, torch cannot export it.
    """
    shapes = Shapes(program)
    shapes.bounds.update(bounds or {})
    fixed = fixed or {}
    _remove_unused(graph_module)
    tensors = {
        place: torch.zeros(size, dtype=shapes.dtypes[place])
        for place, size in shapes.sizes(shapes.choose(fixed)).items()
    }
    given = {**tensors, **constants(program.exported)}
    order = [str(node.target) for node in placeholders(graph_module)]
    try:
        with captured(), torch.no_grad():
            exported = torch.export.export(
                graph_module,
                tuple(given[name] for name in order),
                dynamic_shapes=tuple(_dynamic(shapes, fixed, name) for name in order),
            )
    except Exception as error:
        raise AdaptError(
            "LPT-ADAPT-013",
            "The adapted program cannot be exported again",
            cause=f"{type(error).__name__}: {first_line(str(error))}",
            remedy="Name the rewrites one by one with --rewrite to find the one that does it"
            if not fixed
            else "Give other sizes: the model decides something by the sizes that were given.",
        ) from error
    for node in _all_nodes(exported):
        node.meta.pop("from_node", None)  # holds addresses, which would end up in the file
    names = [spec.name for spec in program.signature.inputs]
    axes = {
        spec.name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)}
        for spec in program.signature.inputs
    }
    outputs = [spec.name for spec in program.signature.outputs]
    result = describe_program(exported, names, outputs, axes)
    result.notes = dict(program.notes)
    return result


def _all_nodes(exported: ExportedProgram) -> Iterator[Node]:
    for module in exported.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from module.graph.nodes


def _dynamic(shapes: Shapes, fixed: Mapping[str, int], place: str) -> Any:  # noqa: ANN401
    """Return torch's description of the open dimensions of one input."""
    found: dict[int, Any] = {}
    for position, size in enumerate(shapes.dims.get(place, ())):
        if isinstance(size, int):
            continue
        names = {shapes.names.get(symbol, "") for symbol in size.free_symbols}
        if names <= set(fixed):
            continue
        dim = _dim(shapes, size)
        if dim is not None:
            found[position] = dim
    return found or None


def _dim(shapes: Shapes, expression: sympy.Expr) -> Any:  # noqa: ANN401 - torch's Dim
    """Return a ``Dim`` for a symbol or for a linear expression over one."""
    (symbol,) = expression.free_symbols or (None,)
    name = shapes.names.get(symbol)
    if len(expression.free_symbols) != 1 or name is None:
        return Dim.AUTO
    lower, upper = shapes.bounds.get(name, (1, None))
    if upper is not None and upper <= lower:
        return None
    # torch wants identifiers; ours are given back by the contract.
    base = Dim(f"d{shapes.symbols.index(name)}", min=lower, max=upper)
    if expression == symbol:
        return base
    factor, rest = expression.coeff(symbol), expression.subs(symbol, 0)
    if sympy.expand(factor * symbol + rest - expression) != 0:
        return Dim.AUTO
    return int(factor) * base + int(rest) if rest else int(factor) * base


def _remove_unused(graph_module: GraphModule) -> None:
    """Remove calls without effect, and weights that nothing reads any more."""
    graph_module.graph.eliminate_dead_code()
    used = {
        node.target
        for module in graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "get_attr"
    }
    held = [*dict(graph_module.named_parameters(remove_duplicate=False))]
    held += [*dict(graph_module.named_buffers(remove_duplicate=False))]
    for name in held:
        owner, _, last = name.rpartition(".")
        parent = graph_module.get_submodule(owner)
        inside = isinstance(parent, torch.fx.GraphModule) and parent is not graph_module
        if name not in used and not inside:
            delattr(parent, last)
    graph_module.recompile()


__all__ = [
    "Bounds",
    "Shapes",
    "constants",
    "editable",
    "mutating",
    "placeholders",
    "retrace",
    "tensor_inputs",
]
