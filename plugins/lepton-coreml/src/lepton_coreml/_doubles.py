"""Constants of float64 that float32 does not hold: named, and refused unless they do no harm.

An ML Program computes float64 in float32, where what is beyond 3.4e38 is infinite. That makes no
difference where such a constant only bounds or is compared, or where the model itself makes a
float32 of it. Where it marks what a Softmax is to leave out, infinity would turn a row that is
left out whole into NaN; cut to the largest float32 it does what the model does. Everywhere else
the result would be another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = 2.0**-150
"""What is nearer to 0 than half of the smallest float32."""
_SINGLE = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_MOVES = frozenset(
    {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Tile", "Flatten"}
)
_COMPARES = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"})
_BOUNDS = {"Min": 1, "Max": -1}
"""Operators that never choose a number beyond of this sign over another."""

INFINITE, CUT = "infinite", "cut"
"""What a constant may become without a difference."""


@dataclass(frozen=True, slots=True)
class _Use:
    """One operator that a constant ends in, and what it may become there."""

    where: str
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Found:
    """A constant that float32 does not hold."""

    name: str
    values: NDArray[np.float64]
    uses: tuple[_Use, ...]

    @property
    def largest(self) -> float:
        """The first of its numbers that is beyond."""
        return float(self.values[_beyond(self.values)][0])


def fit_doubles(proto: ModelProto, *, half: bool = False) -> tuple[ModelProto, list[str]]:
    """Make float64 constants fit float32, or refuse them.

    Args:
        proto: The graph with its weights in memory; it is not changed.
        half: Whether the program computes in float16, where no finite mask is large enough.

    Returns:
        The graph, a copy if a constant was cut, and a warning for each constant that becomes
        another number.

    Raises:
        ConversionError: LPT-CONV-512, a number beyond float32 reaches an output.
    """
    known = dict(_doubles(proto))
    walk = _Walk(proto, known, half=half)
    warnings: list[str] = []
    cut: dict[str, NDArray[np.float64]] = {}
    for name, values in known.items():
        if name not in walk.live:
            continue
        if np.any(_beyond(values)):
            found = _Found(name, values, tuple(walk.uses(values, name)))
            allowed = frozenset({INFINITE, CUT}).intersection(*(u.allowed for u in found.uses))
            if not allowed:
                raise _refusal(found)
            kind = INFINITE if INFINITE in allowed else CUT
            if kind == CUT:
                cut[name] = np.clip(values, -_LARGEST, _LARGEST)
            warnings.append(_words(found, kind))
        small = values[(values != 0) & (np.abs(values) < _SMALLEST)]
        if small.size:
            readers = [node for node, _ in walk.readers[name] if node.op_type]
            places = ", ".join(map(_called, readers[:3])) or "an output"
            warnings.append(
                f"The float64 constant {name!r} ({small[0]:g}) becomes 0 in float32; it is read "
                f"by {places}."
            )
    return (_with(proto, cut) if cut else proto), warnings


def _words(found: _Found, kind: str) -> str:
    places = ", ".join(dict.fromkeys(use.where for use in found.uses))
    became = "becomes infinite" if kind == INFINITE else f"was cut to {_LARGEST:.4g}"
    return (
        f"The float64 constant {found.name!r} ({found.largest:g}) {became}, as float32 does not "
        f"hold it; it ends in {places}, where that makes no difference."
    )


def _refusal(found: _Found) -> ConversionError:
    bad = next((u for u in found.uses if not u.allowed), found.uses[0])
    others = [u.where for u in found.uses if u is not bad and not u.allowed & bad.allowed]
    also = f" (and {others[0]})" if others and bad.allowed else ""
    return ConversionError(
        "LPT-CONV-512",
        f"The float64 constant {found.name!r} is beyond float32 and reaches {bad.where}{also}",
        cause=f"It holds {found.largest:g}; Core ML computes float64 in float32, where it would "
        "be infinite, and so would what follows from it.",
        remedy=f"Use a number within {_LARGEST:.2g} in the model (such as -1e30 in a mask), or "
        "choose another target.",
        details={"constant": found.name, "where": bad.where},
    )


# --- where it goes ------------------------------------------------------------------------------


class _Walk:
    """Follows constants to the operators that they end in.

    Args:
        proto: The graph.
        known: Its float64 constants by name.
        half: Whether the program computes in float16.
    """

    def __init__(
        self, proto: ModelProto, known: Mapping[str, NDArray[np.float64]], *, half: bool
    ) -> None:
        self.live = {value.name for value in proto.graph.output}
        for node in reversed(proto.graph.node):
            if self.live & set(node.output):
                self.live |= set(node.input)
        self.readers: dict[str, list[tuple[NodeProto, int]]] = {}
        self._derived = {name for name, values in known.items() if np.any(_beyond(values))}
        for node in proto.graph.node:
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, place))
            if self._derived & set(node.input):
                self._derived |= set(node.output)
        for value in proto.graph.output:
            self.readers.setdefault(value.name, []).append((NodeProto(), 0))
        self._half = half

    def uses(
        self, values: NDArray[np.float64], name: str, *, added: bool = False
    ) -> Iterator[_Use]:
        """Yield the operators that a constant ends in.

        Args:
            values: The constant's.
            name: The constant, or what holds its numbers at some places.
            added: Whether something was added to them on the way.
        """
        for node, place in self.readers.get(name, ()):
            if not node.op_type:
                yield _Use("an output")
            elif self.live & set(node.output):
                others = [n for i, n in enumerate(node.input) if i != place]
                if self._passes(node, place, others, added=added):
                    more = added or node.op_type == "Add"
                    yield from self.uses(values, node.output[0], added=more)
                else:
                    yield _Use(_called(node), self._allowed(values, node, place, others))

    def _passes(self, node: NodeProto, place: int, others: list[str], *, added: bool) -> bool:
        """Tell whether an operator gives the constant's numbers on, or sums that they swallow."""
        if node.op_type in _MOVES:
            return place == 0
        if node.op_type == "Cast":
            return _to(node) == TensorProto.DOUBLE
        alone = not self._derived & set(others)
        return alone and (
            (node.op_type == "Where" and place > 0) or (node.op_type == "Add" and not added)
        )

    def _allowed(
        self, values: NDArray[np.float64], node: NodeProto, place: int, others: list[str]
    ) -> frozenset[str]:
        """Return what a constant may become where an operator reads it."""
        beyond = values[_beyond(values)]
        signs = set(np.sign(beyond).astype(int).tolist())
        kind = node.op_type
        if kind == "Cast" and _to(node) in _SINGLE:
            return frozenset({INFINITE})  # as the model does
        found: frozenset[str] = frozenset()
        if not self._derived & set(others):
            if kind in _COMPARES:
                found = frozenset({INFINITE})
            elif (kind == "Clip" and place > 0 and signs == {-1 if place == 1 else 1}) or (
                kind in _BOUNDS and signs == {_BOUNDS[kind]}
            ):
                found = frozenset({INFINITE, CUT})
            elif kind == "Softmax" and len(np.unique(beyond)) == 1 and not self._half:
                found = frozenset({CUT})
        return found


def _to(node: NodeProto) -> int | None:
    return next((a.i for a in node.attribute if a.name == "to"), None)


def _beyond(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(values) & ~np.isfinite(values.astype(np.float32))


def _called(node: NodeProto) -> str:
    return f"{node.op_type} ({node.name or node.output[0]!r})"


# --- the graph ----------------------------------------------------------------------------------


def _doubles(proto: ModelProto) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            yield tensor.name, np.atleast_1d(numpy_helper.to_array(tensor))
    for node in proto.graph.node:
        held = _held(node)
        if held is not None:
            yield node.output[0], np.atleast_1d(numpy_helper.to_array(held))


def _held(node: NodeProto) -> Any:  # noqa: ANN401 - protobuf
    """Return the float64 tensor that a node holds, ``None`` if it holds none."""
    if node.op_type not in ("Constant", "ConstantOfShape"):
        return None
    value = next((a.t for a in node.attribute if a.name == "value"), None)
    return value if value is not None and value.data_type == TensorProto.DOUBLE else None


def _with(proto: ModelProto, cut: Mapping[str, NDArray[np.float64]]) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(proto)
    for tensor in result.graph.initializer:
        if tensor.name in cut:
            values = cut[tensor.name].reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in result.graph.node:
        held = _held(node)
        if held is not None and node.output[0] in cut:
            values = cut[node.output[0]].reshape(tuple(held.dims))
            held.CopyFrom(numpy_helper.from_array(values, held.name))
    return result


__all__ = ["fit_doubles"]
