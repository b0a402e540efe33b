"""Shape arithmetic on known values: a few operators of ONNX on arrays of Python numbers.

Each takes the node and its inputs and returns the result, or ``None`` where it has to be computed
on tensors.
"""

from __future__ import annotations

import math
import operator as python
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lepton_torch._bridge._values import DTYPES, Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._bridge._registry import Node

MOST = 4096
"""Elements up to which values are computed here."""


def _objects(value: Known) -> np.ndarray:
    array = np.empty(value.values.shape, dtype=object)
    array.reshape(-1)[:] = value.list()
    return array


def _like(value: Known, array: Any, dtype: torch.dtype | None = None) -> Known:  # noqa: ANN401
    return Known(np.asarray(array, dtype=object), dtype or value.dtype)


def _binary(
    function: Callable[[Any, Any], Any], result: torch.dtype | None = None
) -> Callable[..., Known]:
    vectorised = np.frompyfunc(function, 2, 1)

    def compute(_node: Node, left: Known, right: Known) -> Known:
        return _like(left, vectorised(_objects(left), _objects(right)), result)

    return compute


def _divide(left: Any, right: Any) -> Any:  # noqa: ANN401 - numbers and symbolic sizes
    if isinstance(left, float | torch.SymFloat) or isinstance(right, float | torch.SymFloat):
        return left / right
    if isinstance(left, torch.SymInt) or isinstance(right, torch.SymInt):
        return _divide_symbolic(left, right)
    return int(abs(left) // abs(right)) * (1 if (left < 0) == (right < 0) else -1)


def _divide_symbolic(left: Any, right: Any) -> Any:  # noqa: ANN401 - sizes, or differences of them
    """Divide toward zero; Python's division alone would round a negative difference down.

    Raises:
        ArithmeticError: The divisor may be negative or zero.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true as always

    if not always(right > 0):
        msg = "the sign of the divisor is not known"
        raise ArithmeticError(msg)
    if always(left >= 0):
        return left // right
    return torch.sym_max(left, 0) // right - torch.sym_max(-left, 0) // right


def _modulo(node: Node, left: Known, right: Known) -> Known | None:
    if node.get("fmod", 0):
        return None  # the remainder of C, with the sign of the dividend
    return _REMAINDER(node, left, right)


_REMAINDER = _binary(python.mod)


def _smaller(left: Any, right: Any) -> Any:  # noqa: ANN401
    return torch.sym_min(left, right)


def _larger(left: Any, right: Any) -> Any:  # noqa: ANN401
    return torch.sym_max(left, right)


def _unary(function: Callable[[Any], Any]) -> Callable[..., Known]:
    vectorised = np.frompyfunc(function, 1, 1)

    def compute(_node: Node, value: Known) -> Known:
        return _like(value, vectorised(_objects(value)))

    return compute


def _floor(value: Any) -> Any:  # noqa: ANN401
    return torch.sym_float(math.floor(value))


def _ceil(value: Any) -> Any:  # noqa: ANN401
    return torch.sym_float(math.ceil(value))


def _rounded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, torch.SymInt | torch.SymFloat):
        return torch.sym_float(value)
    return float(np.float32(value))


def _cast(node: Node, value: Known) -> Known | None:
    dtype = DTYPES.get(node.get("to"))
    if dtype is None:
        return None
    if dtype == torch.bool:
        convert: Callable[[Any], Any] = bool
    elif dtype.is_floating_point:
        convert = _rounded if dtype == torch.float32 else torch.sym_float
    elif dtype in (torch.int64, torch.int32):
        convert = torch.sym_int
    else:
        return None
    return _like(value, np.frompyfunc(convert, 1, 1)(_objects(value)), dtype)


def _gather(node: Node, data: Known, index: Known) -> Known:
    chosen = np.asarray(index.ints(), dtype=np.int64).reshape(index.values.shape)
    return _like(data, np.take(_objects(data), chosen, axis=node.get("axis", 0)))


def _concat(node: Node, *parts: Known) -> Known:
    return _like(parts[0], np.concatenate([_objects(p) for p in parts], axis=node.get("axis")))


def _axes_of(node: Node, axes: Known | None) -> tuple[int, ...] | None:
    found = axes.ints() if axes is not None else node.get("axes")
    return None if found is None else tuple(found)


def _unsqueeze(node: Node, data: Known, axes: Known | None = None) -> Known:
    return _like(data, np.expand_dims(_objects(data), _axes_of(node, axes) or ()))


def _squeeze(node: Node, data: Known, axes: Known | None = None) -> Known:
    return _like(data, np.squeeze(_objects(data), _axes_of(node, axes)))


def _reshape(node: Node, data: Known, shape: Known) -> Known | None:
    if shape.symbolic:
        return None
    old = data.values.shape
    new = [
        old[i] if n == 0 and not node.get("allowzero") else n for i, n in enumerate(shape.ints())
    ]
    return _like(data, _objects(data).reshape(new))


def _slice(
    node: Node,
    data: Known,
    starts: Known,
    ends: Known,
    axes: Known | None = None,
    steps: Known | None = None,
) -> Known | None:
    if starts.symbolic or ends.symbolic:
        return None
    first, last = starts.ints(), ends.ints()
    along = axes.ints() if axes else list(range(len(first)))
    by = steps.ints() if steps else [1] * len(first)
    chosen: list[slice] = [slice(None)] * data.values.ndim
    for axis, begin, end, step in zip(along, first, last, by, strict=True):
        size = data.values.shape[axis]
        stop = None if step < 0 and end < -size else end
        chosen[axis] = slice(begin, stop, step)
    return _like(data, _objects(data)[tuple(chosen)])


def _split(node: Node, data: Known, lengths: Known | None = None) -> list[Known]:
    axis = node.get("axis", 0)
    if lengths is None:
        count = node.get("num_outputs") or len(node.outputs)
        each = -(-data.values.shape[axis] // count)
        cuts = [each * i for i in range(1, count)]
    else:
        cuts = list(np.cumsum(lengths.ints())[:-1])
    return [_like(data, part) for part in np.split(_objects(data), cuts, axis=axis)]


def _fold(function: Callable[[Any, Any], Any], start: Any) -> Callable[..., Known | None]:  # noqa: ANN401
    def compute(node: Node, data: Known, axes: Known | None = None) -> Known | None:
        over = _axes_of(node, axes)
        if data.values.ndim != 1 or over not in (None, (0,), (-1,)):
            return None
        if over is None and node.get("noop_with_empty_axes", 0):
            return None  # nothing is reduced
        result = start
        for value in data.list():
            result = value if result is None else function(result, value)
        if result is None:
            return None
        return _like(data, np.full((1,) if node.get("keepdims", 1) else (), result, dtype=object))

    return compute


def _expand(_node: Node, data: Known, shape: Known) -> Known | None:
    if shape.symbolic:
        return None
    wide = np.broadcast_shapes(data.values.shape, tuple(shape.ints()))
    return _like(data, np.broadcast_to(_objects(data), wide)) if math.prod(wide) <= MOST else None


def _constant_of_shape(node: Node, shape: Known) -> Known | None:
    if shape.symbolic or math.prod(shape.ints()) > MOST:
        return None
    value = node.get("value")
    dtype = torch.float32 if value is None else value.dtype
    fill = 0.0 if value is None else value.item()
    return Known(np.full(shape.ints(), fill, dtype=object), dtype)


def _where(_node: Node, condition: Known, left: Known, right: Known) -> Known:
    choose = np.frompyfunc(lambda c, a, b: a if bool(c) else b, 3, 1)
    return _like(left, choose(_objects(condition), _objects(left), _objects(right)))


def _shape(node: Node, data: Known) -> Known:
    shape = list(data.values.shape)[node.get("start", 0) : node.get("end")]
    return Known(np.asarray(shape, dtype=object), torch.int64)


def _range(_node: Node, start: Known, limit: Known, delta: Known) -> Known | None:
    if start.symbolic or limit.symbolic or delta.symbolic or start.dtype.is_floating_point:
        return None
    values = list(range(start.item(), limit.item(), delta.item()))
    return _like(start, values) if len(values) <= MOST else None


KNOWN: dict[str, Callable[..., Known | list[Known] | None]] = {
    "Abs": _unary(abs),
    "Add": _binary(python.add),
    "And": _binary(lambda a, b: bool(a) and bool(b), torch.bool),
    "Cast": _cast,
    "Ceil": _unary(_ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Equal": _binary(python.eq, torch.bool),
    "Expand": _expand,
    "Floor": _unary(_floor),
    "Gather": _gather,
    "Greater": _binary(python.gt, torch.bool),
    "GreaterOrEqual": _binary(python.ge, torch.bool),
    "Identity": lambda _node, value: value,
    "Less": _binary(python.lt, torch.bool),
    "LessOrEqual": _binary(python.le, torch.bool),
    "Max": _binary(_larger),
    "Min": _binary(_smaller),
    "Mod": _modulo,
    "Mul": _binary(python.mul),
    "Neg": _unary(python.neg),
    "Not": _unary(lambda a: not bool(a)),
    "Or": _binary(lambda a, b: bool(a) or bool(b), torch.bool),
    "Range": _range,
    "ReduceMax": _fold(_larger, None),
    "ReduceMin": _fold(_smaller, None),
    "ReduceProd": _fold(python.mul, 1),
    "ReduceSum": _fold(python.add, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(python.sub),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Rules by operator."""
