"""ONNX's own backend node tests, run through the bridge."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lepton_torch._bridge import catalogue
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._module import BridgeModule
from lepton_torch._bridge._registry import OPERATORS
from lepton_torch._bridge._values import to_numpy, to_torch


@cache
def cases():
    """Return the tests of the onnx package whose operators are all covered, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        found = load_model_tests(kind="node")
    return {
        t.name: t
        for t in found
        if all(n.domain == "" and n.op_type in catalogue.NAMES for n in t.model.graph.node)
    }


def family(case):
    """Return the family of a case's first operator."""
    first = next((n.op_type for n in case.model.graph.node if n.op_type != "Constant"), "")
    own = (f for f, names in catalogue.FAMILIES.items() if first in names.split())
    return next(own, "shape")


def _array(value, info):
    kind = info.type.tensor_type.elem_type
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    array = np.array(value)
    return array.astype(helper.tensor_dtype_to_np_dtype(kind)) if array.dtype == object else array


def frozen(model, arrays):
    """Make constants of inputs that translations must know, such as axes; return the others."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    needed = {
        n.input[i]
        for n in result.graph.node
        if n.op_type in OPERATORS
        for i in OPERATORS[n.op_type].known
        if i < len(n.input)
    }
    kept = []
    for info, value in zip(model.graph.input, arrays, strict=True):
        if info.name in needed:
            constant = numpy_helper.from_array(_array(value, info), info.name)
            result.graph.initializer.append(constant)
        else:
            kept.append((info, _array(value, info)))
    del result.graph.input[:]
    result.graph.input.extend(info for info, _ in kept)
    return result, [array for _, array in kept]


def run(case, export):
    """Compare a case with its reference; raise where it differs or is refused."""
    for inputs, outputs in case.data_sets:
        model, arrays = frozen(case.model, inputs)
        module = BridgeModule(read_graph(model))
        tensors = tuple(map(to_torch, arrays))
        with torch.no_grad():
            results = module(*tensors)
            if export:
                module.register()
                program = torch.export.export(module, tensors, strict=False)
                results = program.module()(*tensors)
        assert len(results) == len(outputs)
        for info, result, expected in zip(model.graph.output, results, outputs, strict=True):
            _compare(to_numpy(result), _array(expected, info), case)


def _compare(found, expected, case):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.dtype.kind not in "biufc":
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=case.rtol, atol=max(case.atol, 1e-6))
