"""Rewriting a float32 graph to float16."""

from __future__ import annotations

from collections.abc import Iterable  # noqa: TC003
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError
from lepton_onnx._cleanup import captured, lift_constants, replace_items
from lepton_onnx._half_rules import LARGEST, SMALLEST, Formals, Rules, formals_of, why_not_half
from lepton_onnx._infer import infer
from lepton_onnx._naming import order_initializers
from lepton_onnx._parked import Parked, inline_functions, park, with_inputs_for_weights
from lepton_onnx._protobuf import opset_of, subgraphs, walk_graphs

if TYPE_CHECKING:
    from collections.abc import Mapping

_HALF, _SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
_SUFFIX: dict[int, str] = {_HALF: "/fp16", _SINGLE: "/fp32"}
_CAST_OPSET = 21
"""Opset of the Casts in a model that uses none of ONNX's own operators."""

_LIMITS = ("fp16_lowest", "fp16_highest")


@dataclass(frozen=True, slots=True)
class Float16Result:
    """A converted model and what was decided.

    Attributes:
        model: The model, weights in memory; inputs and outputs are as before.
        kept: Names of nodes and weights that stay in float32, with the reason.
        casts: Number of Cast nodes that were inserted.
        warnings: What the user should know.
    """

    model: ModelProto
    kept: Mapping[str, str]
    casts: int
    warnings: tuple[str, ...] = ()


def convert(
    model: ModelProto,
    *,
    keep: Iterable[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Float16Result:
    """Convert a float32 model to float16.

    Graph inputs and outputs stay float32, with Casts at the border. Which parameters of an
    operator may be float16 is read from ONNX's operator definitions; what float16 cannot hold
    stays in float32 (:mod:`lepton_onnx._half_rules`). Integers, float16 and float64 values and
    nodes that hold nested graphs are left as they are. Value names are kept; a value that is
    needed in the other precision too is named after it with ``/fp16`` or ``/fp32``.

    Args:
        model: A model with its weights in memory; it is not changed.
        keep: Names of nodes, values or operator types that stay in float32.
        ranges: Lowest and highest value seen, by value name; values outside of float16's range
            stay in float32.

    Returns:
        The converted model, checked by ONNX's checker, and what was decided.

    Raises:
        SourceError: The model's shapes contradict each other.
        ConversionError: LPT-CONV-203, the result does not pass ONNX's checker.
    """
    parked = park(model)
    parked.model = inline_functions(parked.model)
    if not opset_of(parked.model):
        parked.model.opset_import.add(domain="", version=_CAST_OPSET)
    lift_constants(parked)
    parked.model = infer(parked.model)
    rewriter = _Rewriter(parked, frozenset(keep), _outside(ranges or {}))
    rewriter.rewrite()
    parked.model = infer(parked.model)
    try:
        onnx.checker.check_model(with_inputs_for_weights(parked.model), full_check=True)
    except Exception as error:
        raise ConversionError(
            "LPT-CONV-203",
            "The model converted to float16 does not pass ONNX's checker",
            cause=" ".join(str(error).split())[:500],
            remedy="Keep the node that the cause names in fp32 with the option keep.",
        ) from error
    for tensor in parked.model.graph.initializer:
        parked.restore(tensor)
    return Float16Result(
        parked.model, dict(sorted(rewriter.kept.items())), rewriter.casts, rewriter.warnings()
    )


def _outside(ranges: Mapping[str, tuple[float, float]]) -> frozenset[str]:
    found = set()
    for name, (low, high) in ranges.items():
        size = max(abs(low), abs(high))
        if size > LARGEST or 0 < size < SMALLEST:
            found.add(name)
    return frozenset(found)


def _types(model: ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {
        v.name: v.type.tensor_type.elem_type if v.type.HasField("tensor_type") else 0
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    types.update({t.name: t.data_type for t in graph.initializer})
    types.update({s.values.name: 0 for s in graph.sparse_initializer})
    return types


@dataclass
class _Rewriter:
    """Walks the outermost graph once, in topological order."""

    parked: Parked
    keep: frozenset[str]
    wide: frozenset[str]
    kept: dict[str, str] = field(default_factory=dict)
    casts: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    have: dict[tuple[str, int], str] = field(default_factory=dict)
    """By value and precision: the name under which it is there."""

    def __post_init__(self) -> None:
        model = self.parked.model
        self.graph = model.graph
        self.types = _types(model)
        self.outputs = {v.name for v in self.graph.output}
        self.taken = {
            name for g in walk_graphs(self.graph) for node in g.node for name in node.output
        } | set(self.types)
        self.weights = {t.name: t for t in self.graph.initializer if t.data_type == _SINGLE}
        self.added: list[TensorProto] = []
        self.rules = Rules(
            opset=opset_of(model),
            types=self.types,
            constants={name: self._judge(t) for name, t in self.weights.items()},
            matrices=frozenset(
                n for n, t in self.weights.items() if sum(d > 1 for d in t.dims) > 1
            ),
            keep=self.keep,
            wide=self.wide,
        )
        wide_inputs = {v.name for v in self.graph.input} & self.wide
        self.rules.sticky |= wide_inputs
        self.rules.large |= wide_inputs

    def _array(self, tensor: TensorProto) -> np.ndarray:
        data = b"".join(self.parked.chunks(tensor))
        return np.frombuffer(data, np.dtype("<f4")).reshape(tuple(tensor.dims))

    def _judge(self, tensor: TensorProto) -> str:
        if tensor.name in self.keep:
            return "asked for"
        return why_not_half(self._array(tensor))

    def rewrite(self) -> None:
        for name, kind in self.types.items():
            if kind == _SINGLE:
                produced = name in self.weights or any(v.name == name for v in self.graph.input)
                if produced:
                    self.have[name, _SINGLE] = name
        for node in self.graph.node:
            formals = formals_of(node, opset_of(self.parked.model, node.domain))
            self._rewrite_node(node, formals)
        replace_items(self.graph.node, self.nodes)
        self._retype_infos()
        self._rewrite_weights()
        for name, reason in self.rules.constants.items():
            if reason:
                self.kept[name] = reason

    def _rewrite_node(self, node: NodeProto, formals: Formals | None) -> None:
        floats = [n for n in (*node.input, *node.output) if self.types.get(n) == _SINGLE]
        inner = captured(node)
        if not floats and not inner:
            self.nodes.append(node)
            return
        reason = self.rules.reason(node, formals)
        if reason:
            self.kept[node.name or node.output[0]] = reason
            formals = Formals([False] * len(node.input), [False] * len(node.output))
        if formals is None:  # cannot be: an unknown operator has a reason
            formals = Formals([], [])
        new = NodeProto()
        new.CopyFrom(node)
        self._rewrite_inputs(new, formals)
        if inner:
            self._rewrite_captured(new, inner)
        if not reason:
            _retype_attributes(new, self.types.get(node.output[0]) == _SINGLE)
        self._rewrite_outputs(node, new, formals)

    def _rewrite_inputs(self, node: NodeProto, formals: Formals) -> None:
        for index, name in enumerate(node.input):
            if self.types.get(name) != _SINGLE or not name:
                continue
            wanted = _HALF if formals.inputs[index] else _SINGLE
            if node.op_type == "Cast" and (name, wanted) not in self.have:
                wanted = _SINGLE if wanted == _HALF else _HALF  # a Cast takes either
            node.input[index] = self._get(name, wanted)

    def _get(self, name: str, wanted: int) -> str:
        """Return the name of a value in a precision, casting it if it is not there yet."""
        if (name, wanted) not in self.have:
            if name in self.weights:
                self.have[name, wanted] = f"{name}{_SUFFIX[wanted]}"
            else:
                self._cast(name, wanted)
        return self.have[name, wanted]

    def _cast(self, name: str, wanted: int) -> None:
        source = self.have[name, _SINGLE if wanted == _HALF else _HALF]
        if wanted == _HALF and name in self.rules.large:
            source = self._saturated(name, source)
        result = self._unique(f"{name}{_SUFFIX[wanted]}")
        self.nodes.append(helper.make_node("Cast", [source], [result], name=result, to=wanted))
        self.have[name, wanted] = result
        self.casts += 1

    def _saturated(self, name: str, source: str) -> str:
        if not self.added:
            for limit, value in zip(_LIMITS, (-LARGEST, LARGEST), strict=True):
                self.added.append(numpy_helper.from_array(np.array(value, np.float32), limit))
        result = self._unique(f"{name}/saturated")
        self.nodes.append(helper.make_node("Clip", [source, *_LIMITS], [result], name=result))
        return result

    def _unique(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name

    def _rewrite_captured(self, node: NodeProto, inner: set[str]) -> None:
        """Give nested graphs the float32 version of what they take from outside."""
        names = {n: self._get(n, _SINGLE) for n in sorted(inner) if self.types.get(n) == _SINGLE}
        renamed = {old: new for old, new in names.items() if old != new}
        for graph in (g for outer in subgraphs(node) for g in walk_graphs(outer)):
            for nested in graph.node:
                nested.input[:] = [renamed.get(n, n) for n in nested.input]
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)

    def _rewrite_outputs(self, old: NodeProto, new: NodeProto, formals: Formals) -> None:
        after = []
        for index, name in enumerate(old.output):
            if self.types.get(name) != _SINGLE or not name:
                continue
            kind = _HALF if formals.outputs[index] else _SINGLE
            self.have[name, kind] = name
            if kind == _HALF and name in self.outputs:
                half = self._unique(f"{name}{_SUFFIX[_HALF]}")
                new.output[index] = half
                self.have[name, _HALF], self.have[name, _SINGLE] = half, name
                after.append(helper.make_node("Cast", [half], [name], name=half, to=_SINGLE))
        self.nodes += [new, *after]
        self.casts += len(after)

    def _retype_infos(self) -> None:
        half = {name: new for (name, kind), new in self.have.items() if kind == _HALF}
        for info in self.graph.value_info:
            if half.get(info.name) == info.name:
                info.type.tensor_type.elem_type = _HALF

    def _rewrite_weights(self) -> None:
        """Store each weight in the precisions in which it is used."""
        used = {n for g in walk_graphs(self.graph) for node in g.node for n in node.input}
        used |= {v.name for g in walk_graphs(self.graph) for v in g.output}
        result = list(self.added)
        for tensor in self.graph.initializer:
            half = self.have.get((tensor.name, _HALF))
            single = tensor.name in used
            if single or tensor.name not in self.weights:
                result.append(tensor)
            if half and tensor.name in self.weights:
                name = half if single else tensor.name
                result.append(self._half_weight(tensor, name))
                if not single:
                    self._rename(half, tensor.name)
        replace_items(self.graph.initializer, result)
        order_initializers(self.graph)

    def _half_weight(self, tensor: TensorProto, name: str) -> TensorProto:
        with np.errstate(over="ignore"):
            array = self._array(tensor).astype(np.float16)
        new = numpy_helper.from_array(array, name)
        return self.parked.park(new, new) if self.parked.values(tensor) is not None else new

    def _rename(self, old: str, new: str) -> None:
        for node in self.graph.node:
            if old in node.input:
                node.input[:] = [new if n == old else n for n in node.input]

    def warnings(self) -> tuple[str, ...]:
        found = []
        weights = self.rules.constants
        asked = ("", "asked for")
        unfit = [n for n, why in weights.items() if why not in asked and self.weights[n].dims]
        if unfit:
            found.append(
                f"{len(unfit)} of {len(weights)} weights stay in fp32 because fp16 cannot hold "
                f"them, first {unfit[0]!r}: {weights[unfit[0]]}."
            )
        known = {n.name for n in self.graph.node} | {n.op_type for n in self.graph.node}
        unknown = sorted((self.keep | self.wide) - known - set(self.types))
        if unknown:
            found.append(f"Nothing in the model is named {', '.join(map(repr, unknown))}.")
        return tuple(found)


def _retype_attributes(node: NodeProto, float_output: bool) -> None:
    """Change the attributes that name or hold the output's dtype."""
    if not float_output:
        return
    if node.op_type == "Cast":
        for attribute in node.attribute:
            if attribute.name == "to":
                attribute.i = _HALF
    if node.op_type == "ConstantOfShape":
        value = np.zeros(1, np.float32)
        if node.attribute:
            value = numpy_helper.to_array(node.attribute[0].t)
        del node.attribute[:]
        half = numpy_helper.from_array(value.astype(np.float16))
        node.attribute.append(helper.make_attribute("value", half))
