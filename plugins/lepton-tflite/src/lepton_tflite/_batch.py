"""Opening the batch of a file that was converted for a fixed one.

The converter takes fixed sizes only. So a model is converted with a prime number of rows that
divides no other size in it: wherever a multiple of the prime stands in the file, it comes from the
batch. There the runtime can be told to find the size out when it allocates: -1 in the shapes that
RESHAPE and SLICE take, a cleared limit in STRIDED_SLICE; constants that were widened to the batch
are narrowed to one row where all rows are equal. Whether the result is right for every batch is
not argued but shown, by running it (:mod:`._proof`); a file that does not pass is not used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tflite._flatbuffer import array_of, operator_name, set_array
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
_SIZED = {"BROADCAST_TO": 1, "FILL": 0, "TRANSPOSE_CONV": 0, "TILE": 1}
"""Operators that take a size from a constant and know no -1, with the input that holds it."""
_BROADCASTING = {
    "ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SELECT_V2", "EQUAL", "NOT_EQUAL", "LESS",
    "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND", "LOGICAL_OR", "POW",
    "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD",
}  # fmt: skip
"""Operators that widen their inputs themselves."""


def marker(sizes: Iterable[int]) -> int | None:
    """Return a prime that divides none of the sizes of a model, or ``None``."""
    found = {abs(size) for size in sizes if size}
    return next((p for p in PRIMES if all(size % p for size in found)), None)


def open_batch(model: Any, rows: int) -> list[str]:  # noqa: ANN401 - a generated class
    """Make the batch of a model open.

    Args:
        model: ``ModelT`` that was converted for *rows* rows; it is changed.
        rows: A prime that divides no other size of the model.

    Returns:
        Why it cannot be opened, one line per place; none if it can as far as is seen here.
    """
    problems: list[str] = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            problems += _open_operator(model, graph, operator, rows)
        _drop_broadcasts(model, graph, rows)
        for tensor in graph.tensors:
            _open_tensor(model, tensor, rows)
        for operator in graph.operators:
            name = operator_name(model.operatorCodes[operator.opcodeIndex])
            problems += _left(model, graph, operator, name, rows)
    return problems


def _counted(values: np.ndarray, rows: int) -> np.ndarray:
    """Return where a size comes from the batch."""
    return np.asarray((values != 0) & (values % rows == 0))


def _constant(model: Any, graph: Any, index: int) -> np.ndarray | None:  # noqa: ANN401
    return None if index < 0 else array_of(model, graph.tensors[index])


def _replace(model: Any, graph: Any, operator: Any, place: int, values: np.ndarray) -> None:  # noqa: ANN401
    """Give one input of an operator a constant of its own."""
    old = graph.tensors[operator.inputs[place]]
    new = schema.TensorT()
    new.name = old.name
    set_array(model, new, values)
    graph.tensors.append(new)
    inputs = np.array(operator.inputs, np.int32)
    inputs[place] = len(graph.tensors) - 1
    operator.inputs = inputs


def _open_operator(model: Any, graph: Any, operator: Any, rows: int) -> list[str]:  # noqa: ANN401
    """Open the size that an operator takes from a constant; returns why it cannot be."""
    name = operator_name(model.operatorCodes[operator.opcodeIndex])
    place = {"RESHAPE": 1, "SLICE": 2, "STRIDED_SLICE": 2}.get(name)
    if place is None or len(operator.inputs) <= place:
        return []
    values = _constant(model, graph, operator.inputs[place])
    where = _counted(values, rows) if values is not None else np.zeros(0, bool)
    if values is None or not where.any():
        return []
    if name == "STRIDED_SLICE":
        operator.builtinOptions.endMask |= sum(1 << int(i) for i in np.flatnonzero(where))
        _replace(model, graph, operator, place, np.where(where, 0, values).astype(values.dtype))
        return []
    if name == "RESHAPE" and where.sum() > 1:
        return [f"RESHAPE to {values.tolist()} has the batch in two sizes"]
    opened = np.where(where, -1, values).astype(values.dtype)
    _replace(model, graph, operator, place, opened)
    if name == "RESHAPE" and operator.builtinOptions is not None:
        operator.builtinOptions.newShape = opened
    return []


def _drop_broadcasts(model: Any, graph: Any, rows: int) -> None:  # noqa: ANN401
    """Leave out a BROADCAST_TO whose readers broadcast themselves."""
    names = [operator_name(model.operatorCodes[o.opcodeIndex]) for o in graph.operators]
    kept = []
    for operator, name in zip(graph.operators, names, strict=True):
        if name == "BROADCAST_TO":
            sizes = _constant(model, graph, operator.inputs[1])
            source, result = int(operator.inputs[0]), int(operator.outputs[0])
            readers = [
                (other, other_name)
                for other, other_name in zip(graph.operators, names, strict=True)
                if result in other.inputs
            ]
            if (
                sizes is not None
                and _counted(sizes, rows).any()
                and result not in graph.outputs
                and all(reader in _BROADCASTING for _, reader in readers)
            ):
                for other, _ in readers:
                    other.inputs = np.where(
                        np.asarray(other.inputs) == result, source, other.inputs
                    )
                continue
        kept.append(operator)
    graph.operators = kept


def _open_tensor(model: Any, tensor: Any, rows: int) -> None:  # noqa: ANN401
    shape = np.asarray(tensor.shape if tensor.shape is not None else (), np.int64)
    where = _counted(shape, rows)
    if not where.any():
        return
    values = array_of(model, tensor)
    if values is not None:
        if where[0] and shape[0] == rows and bool((values == values[:1]).all()):
            set_array(model, tensor, np.ascontiguousarray(values[:1]))
        return
    tensor.shape = np.where(where, shape // rows, shape).astype(np.int32)
    tensor.shapeSignature = np.where(where, -1, shape).astype(np.int32)


def _left(model: Any, graph: Any, operator: Any, name: str, rows: int) -> list[str]:  # noqa: ANN401
    """Return the constants of an operator in which the batch still stands."""
    found = []
    place = _SIZED.get(name)
    if place is not None:
        values = _constant(model, graph, operator.inputs[place])
        if values is not None and _counted(values, rows).any():
            found.append(f"{name} takes the size {values.tolist()} as a constant")
    for index in operator.inputs:
        values = _constant(model, graph, index)
        if values is not None and values.ndim and values.shape[0] and not values.shape[0] % rows:
            found.append(f"{name} reads a constant that differs from row to row")
    return found


def sizes_of(shapes: Iterable[Iterable[Any]]) -> set[int]:
    """Return the numbers among dimensions, and the products of each shape's."""
    found: set[int] = set()
    for shape in shapes:
        numbers = [int(dim) for dim in shape if isinstance(dim, int)]
        found.update(numbers)
        found.add(math.prod(numbers))
    return found


__all__ = ["marker", "open_batch", "sizes_of"]
