"""Which of ONNX's node tests are run, and the model that is made of one."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from lepton_core.errors import SourceError
from lepton_onnx._load import check
from lepton_torch._bridge import _graph

PER_OPERATOR = 2
"""Tests of one operator that are run at most."""
WAYS = ("given", "numbers", "weights")
"""What is made constant, in the order in which it is tried: the inputs that translations to torch
must know; all inputs, too, that are whole numbers, truth values or scalars; all but one input."""
_IR = 11
"""Of ONNX's files of opset 24."""
_BRIDGE = Path(__file__).parents[3] / "plugins" / "lepton-torch" / "tests"


@cache
def nodes():
    """Return the module with the cases, which the bridge's tests share."""
    if str(_BRIDGE) not in sys.path:
        sys.path.append(str(_BRIDGE))
    import bridge_nodes

    return bridge_nodes


@cache
def tests():
    """Return the names of all tests that are asked about, by operator.

    They are those of operators that the bridge to torch covers, without the bodies that ONNX
    expands functions to, whose operators are defined the same in one of the opsets of the pivot,
    and that pass arrays of numbers.
    """
    found = {}
    for name, case in nodes().cases().items():
        if "_expanded" not in name and _within(name) is not None and _numbers(case.model):
            found.setdefault(nodes().subject(case), []).append(name)
    return {operator: sorted(found[operator]) for operator in sorted(found)}


def sample(most=PER_OPERATOR):
    """Return the tests that are run, by operator: at most *most* of each.

    They lie at even distances in the list of its names, and those of a smaller *most* are among
    those of a larger one: first, middle, quarters, eighths and so on.
    """
    return {operator: spread(names)[:most] for operator, names in tests().items()}


def spread(names):
    """Return names in the order in which halving finds them."""
    bits = max(len(names) - 1, 1).bit_length()
    order = sorted(range(2**bits), key=lambda i: f"{i:0{bits}b}"[::-1])
    return [names[i] for i in order if i < len(names)]


@cache
def _within(name):
    """Return a test's model as it stands in an opset of the pivot's; ``None`` if there is none.

    Later definitions that only take more types count as the same, where the types are not new ones.
    """
    model = nodes().cases()[name].model
    (version,) = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if any(_graph._version_gap(node, version) for node in model.graph.node):
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for opset in made.opset_import:
        opset.version = min(max(version, _graph.OLDEST), _graph.NEWEST)
    made.ir_version = min(made.ir_version, _IR)
    try:
        check(made)
    except SourceError:
        return None
    return made


def _numbers(model):
    kinds = [v.type for v in (*model.graph.input, *model.graph.output)]
    return all(
        k.HasField("tensor_type") and k.tensor_type.elem_type != TensorProto.STRING for k in kinds
    )


def prepared(name, way):
    """Return a test's model, its inputs by name, and the outputs it should have.

    Args:
        name: Of the test.
        way: One of :data:`WAYS`.

    Returns:
        ``None`` if no input would be left, or the same ones as of the way before.
    """
    case = nodes().cases()[name]
    values, expected = case.data_sets[0]
    model = _within(name)
    made = _frozen(model, values, way)
    if way != WAYS[0]:
        before = _frozen(model, values, WAYS[WAYS.index(way) - 1])
        if not made.graph.input or len(made.graph.input) == len(before.graph.input):
            return None
    left = {info.name for info in made.graph.input}
    arrays = {
        info.name: _array(value)
        for info, value in zip(case.model.graph.input, values, strict=True)
        if info.name in left
    }
    return made, arrays, [_array(value) for value in expected]


def _frozen(model, values, way):
    if way != "weights":
        return nodes().frozen(model, values, way == "numbers")[0]
    made = nodes().frozen(model, values)[0]
    floats = [i for i in made.graph.input if _is_float(i)]
    keep = (floats or list(made.graph.input) or [None])[0]
    given = dict(zip((i.name for i in model.graph.input), values, strict=True))
    for info in [i for i in made.graph.input if i is not keep and i != keep]:
        constant = TensorProto()
        constant.CopyFrom(_proto(given[info.name]))
        constant.name = info.name
        made.graph.initializer.append(constant)
        made.graph.input.remove(info)
    return made


def _is_float(info):
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return info.type.tensor_type.elem_type in kinds


def _proto(value):
    return value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))


def _array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
