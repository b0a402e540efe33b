"""The smallest part of a pivot that a converter still fails on.

The shortest beginning of the graph that fails is searched by halving, then how few nodes before
its end are enough. Both searches take it that a part which fails goes on failing as it grows; where
that is not so, what is found fails all the same, and may not be the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from lepton_core.narrowing import Narrowed, SpentError
from lepton_onnx import pivot
from lepton_onnx._cleanup import captured, replace_items
from lepton_onnx.external import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import NodeProto

    from lepton_core.types import ConvertRequest, Model

    Fails = Callable[[Model, ConvertRequest], bool]

_OF_INPUTS = ("batch", "shapes", "layout")
"""Options that speak of the whole model's inputs, which a part may not have."""


@dataclass
class _Search:
    """Converts ranges of a graph's nodes.

    Attributes:
        proto: The graph, weights in memory.
        model: The handle on it.
        request: What is asked for.
        folder: Where parts are written.
        fails: Tells whether one fails as the whole does.
        fixed: Whether open dimensions get a size, which is cheaper to convert: the one that was
            asked for, else 1. What else is said of inputs is left out then.
    """

    proto: ModelProto
    model: Model
    request: ConvertRequest
    folder: Path
    fails: Fails
    fixed: bool = True

    def part(self, first: int, last: int) -> tuple[Model, ConvertRequest]:
        """Write the nodes from *first* to before *last*; returns what to convert."""
        place = self.folder / f"{first}-{last}{'' if self.fixed else '-open'}"
        place.mkdir(exist_ok=True)
        path = place / "model.onnx"
        options = dict(self.request.options)
        sizes = _sizes(options) if self.fixed else None
        made = part_of(self.proto, first, last, sizes)
        path.write_bytes(made.SerializeToString(deterministic=True))
        model = self.model.evolve(path=str(path), digest=digest(path), signature=None)
        recipe = self.request.recipe
        if recipe:
            recipe = _recipe_of(recipe, path, model.digest, place)
        if self.fixed:
            options = {key: value for key, value in options.items() if key not in _OF_INPUTS}
        return model, replace(self.request, recipe=recipe, options=options)

    def range_fails(self, first: int, last: int) -> bool:
        """Tell whether the nodes from *first* to before *last* fail."""
        return self.fails(*self.part(first, last))


def narrow(model: Model, request: ConvertRequest, folder: Path, fails: Fails) -> Narrowed | None:
    """Find the smallest part of a pivot that fails.

    Args:
        model: Of format ``pivot``.
        request: What was asked for.
        folder: Where parts may be written.
        fails: Converts a part, and tells whether it fails as the whole does.

    Returns:
        What was found until the budget was spent; ``None`` if nothing smaller than the whole was,
        or the whole does not fail again.
    """
    proto = pivot.load(model.path)
    search = _Search(proto, model, request, folder, fails)
    nodes = proto.graph.node
    size = len(nodes)
    try:
        if not search.range_fails(0, size):
            search.fixed = False
            if not search.range_fails(0, size):
                return None
    except SpentError:
        return None
    last, first, known = size, 0, False
    try:
        last = _smallest(1, size, lambda count: search.range_fails(0, count))
        known = True
        first = _latest(search, last)
    except SpentError:
        pass
    if not known and size > 1:
        return None
    end = nodes[last - 1]
    part, asked = search.part(first, last)
    return Narrowed(
        end.op_type, f"node {_name(end)!r}", tuple(_name(node) for node in nodes[first:last]),
        size, part, asked,
    )  # fmt: skip


def _smallest(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """Return the smallest number for which *fails*, if it does so for all above; *high* does."""
    while low < high:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _latest(search: _Search, last: int) -> int:
    """Return the latest node from which on the nodes up to *last* fail; widths are doubled first.

    Raises:
        SpentError: Before a smaller part than the beginning was found.
    """
    width, enough = 1, last
    while width < last:
        try:
            if search.range_fails(last - width, last):
                enough = width
                break
        except SpentError:
            return 0
        width *= 2
    low = width // 2 + 1 if width > 1 else 1
    try:
        width = _smallest(low, enough, lambda count: search.range_fails(last - count, last))
    except SpentError:
        width = enough
    return last - width


def _sizes(options: Mapping[str, Any]) -> dict[str, int]:
    """Return sizes of symbolic dimensions: ``shapes`` is a mapping, or ``"tokens=128,width=9"``."""
    given = options.get("shapes", "")
    if isinstance(given, Mapping):
        return {str(name): int(size) for name, size in given.items()}
    pairs = (part.partition("=") for part in str(given).split(","))
    return {name.strip(): int(size) for name, _, size in pairs if size.strip().isdecimal()}


def part_of(
    model: ModelProto, first: int, last: int, sizes: Mapping[str, int] | None = None
) -> ModelProto:
    """Return some nodes of a pivot as a graph of their own.

    Its inputs are the values that they read from outside, its outputs those that are read outside
    or given back.

    Args:
        model: A pivot, weights in memory.
        first: Number of the first node.
        last: Number behind the last node.
        sizes: Of symbolic dimensions, by name; others without a number become 1. ``None`` leaves
            them open.
    """
    part = ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    nodes = list(graph.node)
    kept, rest = nodes[first:last], [*nodes[:first], *nodes[last:]]
    made = [name for node in kept for name in node.output if name]
    read = dict.fromkeys(name for node in kept for name in _read(node))
    weights = {tensor.name for tensor in graph.initializer}
    outside = {name for node in rest for name in _read(node)} | {v.name for v in graph.output}
    infos = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
    inputs = [infos[n] for n in read if n not in weights and n not in made and n in infos]
    outputs = [infos[n] for n in made if n in outside and n in infos]
    within = [infos[n] for n in made if n not in outside and n in infos]
    replace_items(graph.node, kept)
    replace_items(graph.initializer, [t for t in graph.initializer if t.name in read])
    for field, values in (
        (graph.input, inputs),
        (graph.output, outputs),
        (graph.value_info, within),
    ):
        replace_items(field, values)
    if sizes is not None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.dim_value = sizes.get(dim.dim_param, 1)
    return part


def _read(node: NodeProto) -> list[str]:
    return [name for name in (*node.input, *sorted(captured(node))) if name]


def _name(node: NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


def _recipe_of(recipe: str, graph: Path, parent: str, place: Path) -> str:
    """Write the entries of a recipe that a part of its pivot has values for."""
    from lepton_core import recipe as recipes

    proto = pivot.read(graph)
    values = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    whole = recipes.read(recipe)
    layers = {
        name: layer
        for name, layer in whole.layers.items()
        if name in values and {layer.output, *layer.inputs} <= values
    }
    tensors = {
        name: replace(tensor, same_as=None)
        if tensor.same_as is not None and tensor.same_as not in values
        else tensor
        for name, tensor in whole.tensors.items()
        if name in values
    }
    kept = replace(
        whole,
        pivot=replace(whole.pivot, digest=parent),
        layers=layers,
        tensors=tensors,
        **{
            field: {name: v for name, v in getattr(whole, field).items() if name in values}
            for field in ("kept_float", "corrections", "rescaled", "blocks", "pruned", "palettes")
        },
    )
    arrays = recipes.load_arrays(whole, recipe)
    named = {tensor.integers for tensor in tensors.values() if tensor.integers is not None}
    for stored in kept.stored:
        named |= set(stored)
    path = recipes.write(
        kept, place / "recipe.json", integers={n: a for n, a in arrays.items() if n in named}
    )
    return str(path)


__all__ = ["narrow", "part_of"]
