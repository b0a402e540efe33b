"""Numbers of 64 bits in a graph, of which Core ML computes the lower 32 bits or a float32.

Integers of an ML Program are int32 and its floats are float32 at most. A constant that does not fit
would be written as another number, so it is refused; arithmetic on 64-bit integers of the inputs
may leave the range while it runs, so it is warned of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_WIDE = {TensorProto.INT64, TensorProto.UINT64, TensorProto.UINT32}
_LIMITS = np.iinfo(np.int32)
_GROWS = frozenset(
    {"Add", "Sub", "Mul", "Sum", "Pow", "BitShift", "CumSum", "ReduceSum", "ReduceProd",
     "ReduceSumSquare", "ReduceL1", "MatMul", "Gemm", "Einsum"}
)  # fmt: skip
"""Operators whose result may be beyond the range of their inputs."""
_BOUNDED = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
"""Operators that make integers which are counts or places, whatever they are given."""
_PLACES = {
    "Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "Tile": (1,), "Pad": (1, 3),
    "Resize": (3,), "TopK": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Split": (1,),
    "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "ScatterElements": (1,),
    "ScatterND": (1,), "OneHot": (0, 1), "ConstantOfShape": (0,), "Trilu": (1,),
}  # fmt: skip
"""Inputs that are sizes or places: what comes out is checked against them when it runs."""
_FOLDS = frozenset({"Mod", "BitwiseAnd", "BitwiseXor", "BitShift"})
"""Operators that bring any integer back into a range, as a hash does: a place that they make does
not show that what it was made from was wrong."""
_CLAMPED = {"Slice": (1, 2)}
"""Inputs that may be beyond every size, and are cut to it."""
_PASSING = frozenset({"Cast", "Concat", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def check_wide(proto: ModelProto) -> list[str]:
    """Refuse integers that an ML Program cannot hold; return warnings of what may not fit.

    Args:
        proto: The graph with its weights in memory.

    Raises:
        ConversionError: LPT-CONV-510, a constant is an integer beyond 32 bits, and it is more than
            the end of a Slice.
    """
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))
    for value in proto.graph.output:
        readers.setdefault(value.name, []).append((NodeProto(), 0))
    for name, array in _constants(proto):
        inside = array.size == 0 or (
            int(array.min()) >= _LIMITS.min and int(array.max()) <= _LIMITS.max
        )
        if inside or (name in readers and _only_cut(name, readers)):
            continue
        raise ConversionError(
            "LPT-CONV-510",
            f"The constant {name!r} holds integers beyond 32 bits, and Core ML has no wider ones",
            cause=f"They reach from {array.min()} to {array.max()}.",
            remedy="Use smaller integers in the model, or choose another target.",
            details={"constant": name},
        )
    kinds = _kinds(proto)
    return [*_arithmetic(proto, kinds), *_doubles(kinds)]


def _constants(proto: ModelProto) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and values of every constant of integers that are wider than int32."""
    for tensor in proto.graph.initializer:
        if tensor.data_type in _WIDE:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in proto.graph.node:
        if node.op_type not in ("Constant", "ConstantOfShape"):
            continue
        for attribute in node.attribute:
            held = helper.get_attribute_value(attribute)
            if attribute.name == "value" and held.data_type in _WIDE:
                yield node.output[0], numpy_helper.to_array(held)
            elif attribute.name in ("value_int", "value_ints"):
                yield node.output[0], np.asarray(held, np.int64)


def _only_cut(name: str, readers: Mapping[str, list[tuple[NodeProto, int]]]) -> bool:
    """Tell whether a value is read as an end of a Slice alone, directly or joined with others."""
    for node, place in readers.get(name, ()):
        if place in _CLAMPED.get(node.op_type, ()):
            continue
        on = node.op_type in _PASSING and node.output[0] in readers
        if not on or not _only_cut(node.output[0], readers):
            return False
    return True


def _arithmetic(proto: ModelProto, kinds: Mapping[str, int]) -> list[str]:
    """Return a warning if arithmetic on wide integers of the inputs is part of an output."""
    wide = {i.name for i in proto.graph.input if kinds.get(i.name) in _WIDE}
    risky: dict[str, str] = {}
    folded: set[str] = set()
    for node in proto.graph.node:
        places = _PLACES.get(node.op_type, ())
        read = [n for i, n in enumerate(node.input) if i not in places or n in folded]
        if any(n in folded or (n in risky and node.op_type in _FOLDS) for n in read):
            folded.update(node.output)
        grown = next((risky[n] for n in read if n in risky), "")
        for name in node.output if node.op_type not in _BOUNDED else ():
            is_wide = kinds.get(name) in _WIDE
            from_float = node.op_type == "Cast" and kinds.get(node.input[0]) in _FLOATS
            if is_wide and (from_float or any(n in wide for n in read)):
                wide.add(name)
                if from_float or node.op_type in _GROWS:
                    grown = grown or f"{node.op_type} ({node.name or name!r})"
            if grown:
                risky[name] = grown
    found = dict.fromkeys(risky[o.name] for o in proto.graph.output if o.name in risky)
    return [
        f"Core ML computes {what} in 32-bit integers: results beyond them wrap around, where the "
        "model's 64 bits do not."
        for what in found
    ]


_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def _kinds(proto: ModelProto) -> dict[str, int]:
    """Return element types by value, as far as they are known."""
    inferred = shape_inference.infer_shapes(_light(proto)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    return kinds | {t.name: t.data_type for t in proto.graph.initializer}


def _light(proto: ModelProto) -> ModelProto:
    """Return the graph with its large weights as inputs: inference needs their types alone."""
    light = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph, whole = light.graph, proto.graph
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(whole, field))
    named = {i.name for i in whole.input}
    for tensor in whole.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


_SMALL = 64


def _doubles(kinds: Mapping[str, int]) -> list[str]:
    """Return a warning if anything in the graph is float64."""
    inside = next((name for name, kind in kinds.items() if kind == TensorProto.DOUBLE), None)
    return [] if inside is None else [f"float64 is computed in float32 ({inside!r})."]


__all__ = ["check_wide"]
