"""Rescaled channels and corrected biases of a recipe, written into a float graph.

A graph with rescaled channels computes what it did, to the bit: factors are powers of two. Values
that are not rescaled keep their names in the end; a rescaled one is called ``v/rescaled``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from lepton_core.errors import OptimizeError
from lepton_onnx._cleanup import captured, replace_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import Correction, Recipe, Rescaled

RESCALED, RESTORED = "/rescaled", "/restored"


@dataclass
class Rescaling:
    """A graph whose channels were rescaled, and what its values are called.

    Attributes:
        model: The graph, with weights in memory.
        inside: For values that are multiplied in the graph: the name of the product.
        renamed: Values whose name stands for their rescaled form for now; see :meth:`finish`.
    """

    model: ModelProto
    inside: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe for the graph in place of one for the pivot."""
        return _renamed(recipe, self.inside)

    def pivot_recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe for the pivot in place of one for the graph."""
        added = {name for name in recipe.kept_float if name.endswith((RESCALED, RESTORED))}
        kept = {k: v for k, v in recipe.kept_float.items() if k not in added}
        back = {new: old for old, new in self.inside.items()}
        return _renamed(replace(recipe, kept_float=kept), back)

    def finish(self) -> None:
        """Give values that float operators and outputs read their names back."""
        if not self.renamed:
            return
        for node in self.model.graph.node:
            for items in (node.input, node.output):
                for index, name in enumerate(items):
                    items[index] = self.renamed.get(name, name)
        graph = self.model.graph
        for value in (*graph.output, *graph.value_info):
            value.name = self.renamed.get(value.name, value.name)


def rescale(model: ModelProto, entries: Mapping[str, Rescaled]) -> Rescaling:
    """Rescale channels of values in *model*, in place.

    Weights of ``divided`` and ``multiplied`` are changed. A value that no weight divides is
    multiplied by a node of its own, whose result is called ``v/rescaled``. What reads a divided
    value and is not in ``multiplied`` reads ``v/restored`` instead, until :meth:`Rescaling.finish`.

    Raises:
        OptimizeError: ``LPT-OPT-005`` an entry does not fit the graph.
    """
    result = Rescaling(model)
    weights = {t.name: t for t in model.graph.initializer}
    for value, entry in entries.items():
        for sign, axes in ((-1, entry.divided), (1, entry.multiplied)):
            for name, axis in axes.items():
                _scale_weight(weights[name], axis, sign, entry.exponents, value)
        if entry.divided:
            _restore(result, value, entry)
        else:
            _multiply(result, value, entry)
    return result


def correct(model: ModelProto, corrections: Iterable[Correction]) -> None:
    """Add corrections to biases in *model*, in place; sums are rounded to float32 once."""
    weights = {t.name: t for t in model.graph.initializer}
    for entry in corrections:
        tensor = weights[entry.bias]
        values = numpy_helper.to_array(tensor) + np.asarray(entry.values, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), entry.bias))


def factors(exponents: Iterable[int]) -> NDArray[np.float32]:
    """Return ``2**exponent`` for each exponent, float32."""
    return np.ldexp(np.float32(1), np.asarray(list(exponents), np.int32)).astype(np.float32)


def _scale_weight(
    tensor: Any,  # noqa: ANN401 - TensorProto
    axis: int,
    sign: int,
    exponents: tuple[int, ...],
    value: str,
) -> None:
    array = numpy_helper.to_array(tensor)
    shape = [1] * array.ndim
    shape[axis] = array.shape[axis]
    each = np.repeat(np.asarray(exponents, np.int32) * sign, array.shape[axis] // len(exponents))
    scaled = np.ldexp(array, each.reshape(shape)).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise _wrong(value, f"{tensor.name!r} leaves the range of float32")
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _restore(result: Rescaling, value: str, entry: Rescaled) -> None:
    """Multiply a divided value back for everything that its weights were not changed for."""
    graph = result.model.graph
    result.renamed |= {v: f"{v}{RESCALED}" for v in _between(graph.node, value, entry)}
    others = [n for n in graph.node if not set(n.input) & set(entry.multiplied)]
    readers = [n for n in others if value in n.input]
    outputs = [o for o in graph.output if o.name == value]
    inner = [n for n in graph.node if value in captured(n)]
    if inner:
        raise _wrong(value, "a nested graph reads it")
    if not readers and not outputs:
        return
    name = f"{value}{RESTORED}"
    for node in readers:
        for index, source in enumerate(node.input):
            if source == value:
                node.input[index] = name
    for output in outputs:
        # The value is an inner one from now on, whose type must still be known.
        graph.value_info.add().CopyFrom(output)
        output.name = name
    _insert(result.model, value, name, entry, +1)
    result.renamed[name] = value


def _multiply(result: Rescaling, value: str, entry: Rescaled) -> None:
    """Multiply a value for the products whose weights were changed."""
    name = f"{value}{RESCALED}"
    for node in result.model.graph.node:
        if set(node.input) & set(entry.multiplied):
            for index, source in enumerate(node.input):
                if source == value:
                    node.input[index] = name
    _insert(result.model, value, name, entry, -1)
    result.inside[value] = name


def _between(nodes: Iterable[NodeProto], value: str, entry: Rescaled) -> list[str]:
    """Return the values from the operator that a divided weight belongs to up to *value*."""
    producer = {name: node for node in nodes for name in node.output}
    found = [value]
    node = producer.get(value)
    while node is not None and not set(node.input) & set(entry.divided):
        source = next((n for n in node.input if n in producer), "")
        found.append(source)
        node = producer.get(source)
    if node is not None and len(node.input) == 2 and set(node.input) & set(entry.divided):
        # A bias that is added: what it is added to was divided as well.
        source = next((n for n in node.input if n in producer), "")
        if source and set(producer[source].input) & set(entry.divided):
            found.append(source)
    if node is None:
        raise _wrong(value, "none of the weights in 'divided' leads to it")
    return found


def _insert(model: ModelProto, source: str, name: str, entry: Rescaled, sign: int) -> None:
    """Insert ``name = source * 2**(sign * exponent)`` behind the operator that yields *source*."""
    graph = model.graph
    info = next((v for v in (*graph.value_info, *graph.input, *graph.output)
                 if v.name in (source, name)), None)  # fmt: skip
    rank = len(info.type.tensor_type.shape.dim) if info is not None else 0
    if rank <= entry.axis:
        raise _wrong(source, f"it has no axis {entry.axis}")
    array = factors(sign * e for e in entry.exponents)
    constant = f"{name}/factors"
    shaped = array.reshape(-1, *[1] * (rank - entry.axis - 1))
    graph.initializer.append(numpy_helper.from_array(shaped, constant))
    node = helper.make_node("Mul", [source, constant], [name], name=name)
    nodes = list(graph.node)
    place = next((i + 1 for i, n in enumerate(nodes) if source in n.output), 0)
    replace_items(graph.node, [*nodes[:place], node, *nodes[place:]])
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = name
    if not any(o.name == name for o in graph.output):
        graph.value_info.append(copy)


def _renamed(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    if not names:
        return recipe

    def new(name: str) -> str:
        return names.get(name, name)

    tensors = {
        new(k): t if t.same_as is None else replace(t, same_as=new(t.same_as))
        for k, t in recipe.tensors.items()
    }
    layers = {
        k: replace(layer, inputs=tuple(new(i) for i in layer.inputs))
        for k, layer in recipe.layers.items()
    }
    return replace(recipe, tensors=tensors, layers=layers)


def _wrong(value: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-005",
        f"The recipe's entry rescaled[{value!r}] does not fit the pivot",
        cause=cause,
        remedy="Remove the entry, or write the recipe again.",
    )


__all__ = ["Rescaling", "correct", "factors", "rescale"]
