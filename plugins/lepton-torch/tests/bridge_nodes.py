"""ONNX's own backend node tests, run through the bridge and through onnxruntime."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError
from lepton_torch._bridge import (
    catalogue,
    operators,  # noqa: F401 - fills the table
)
from lepton_torch._bridge._graph import NEWEST, read_graph
from lepton_torch._bridge._module import BridgeModule
from lepton_torch._bridge._narrow import STANDS_IN, widened
from lepton_torch._bridge._registry import OPERATORS
from lepton_torch._bridge._values import to_numpy, to_torch


@cache
def cases():
    """Return the tests whose operators are all covered, by name."""
    return {
        t.name: t
        for t in every_case()
        if all(n.domain == "" and n.op_type in catalogue.NAMES for n in t.model.graph.node)
    }


@cache
def every_case():
    """Return all node tests of the onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        return load_model_tests(kind="node")


def subject(case):
    """Return the operator that a case is about: its only one, or that of an expanded body."""
    names = [n.op_type for n in case.model.graph.node]
    if not case.name.endswith("_expanded"):
        return next((n for n in names if n != "Constant"), "Constant")
    twin = _twins().get(case.name.removesuffix("_expanded"))
    return subject(twin) if twin is not None else names[-1]


@cache
def _twins():
    return {case.name: case for case in every_case()}


def family(case):
    """Return the family of a case's operator."""
    first = subject(case)
    own = (f for f, names in catalogue.FAMILIES.items() if first in names.split())
    return next(own, "shape")


def _array(value, info):
    kind = info.type.tensor_type.elem_type
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.array(value)
    if array.dtype == object:
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    return widened(array, kind) if kind in STANDS_IN else array


def frozen(model, arrays, all_numbers=False):
    """Make constants of inputs that translations must know, such as axes; return the others.

    With *all_numbers* all inputs are constants that are whole numbers, truth values or scalars.
    """
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
        array = _array(value, info)
        if info.name in needed or (all_numbers and (array.dtype.kind in "biu" or not array.ndim)):
            constant = onnx.TensorProto()
            constant.CopyFrom(value if isinstance(value, TensorProto) else _proto(array))
            constant.name = info.name
            result.graph.initializer.append(constant)
        else:
            kept.append((info, array))
    del result.graph.input[:]
    result.graph.input.extend(info for info, _ in kept)
    return result, [array for _, array in kept]


def _proto(array):
    return numpy_helper.from_array(array)


def run(case, export, units=0):
    """Compare a case with its reference; raise where it differs or is refused.

    Args:
        case: The test.
        export: Whether to export it with torch.export first.
        units: Units in the last place that half precision may differ by.

    Returns:
        What :func:`frozen` made constants of: ``nothing``, inputs that are ``needed``, or all
        ``numbers`` because it was refused with fewer.
    """
    held = set()
    for inputs, outputs in case.data_sets:
        try:
            results, constants = _results(case, inputs, export, False)
            held.add("needed" if constants else "nothing")
        except ConversionError as error:
            if error.code not in ("LPT-CONV-112", "LPT-CONV-115"):
                raise
            results, _ = _results(case, inputs, export, True)
            held.add("numbers")
        assert len(results) == len(outputs)
        for info, result, expected in zip(case.model.graph.output, results, outputs, strict=True):
            _compare(to_numpy(result), _array(expected, info), case, units)
    return next(kind for kind in ("numbers", "needed", "nothing") if kind in held)


def _results(case, inputs, export, all_numbers):
    model, arrays = frozen(case.model, inputs, all_numbers)
    module = BridgeModule(read_graph(model))
    tensors = tuple(map(to_torch, arrays))
    with torch.no_grad():
        results = module(*tensors)
        if export:
            module.register()
            program = torch.export.export(module, tensors, strict=False)
            results = program.module()(*tensors)
    return results, len(inputs) - len(arrays)


def _compare(found, expected, case, units):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    rtol = case.rtol
    if units and found.dtype.itemsize == 2 and found.dtype.kind not in "iu":
        rtol = max(rtol, units * float(ml_dtypes.finfo(found.dtype).eps))
    if found.dtype.kind not in "biufc":
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=case.atol)


UNITS = "half precision: within 2 units in the last place, but not within the test's tolerance"
OUTSIDE = ("of type ", "opset ")
"""Reasons that lie outside of what the bridge is for: types that torch lacks, other opsets."""


def outcomes(found, export):
    """Run cases.

    Returns:
        The reason for every case that does not pass, by name; the others counted by what was made
        constant for them (see :func:`run`).
    """
    reasons, held = {}, Counter()
    for name, case in found.items():
        try:
            held[run(case, export)] += 1
        except Exception as error:
            reasons[name] = reason_of(case, error, export)
    return reasons, dict(held)


def reason_of(case, error, export):
    """Return why a case does not pass, in words that are the same for cases of one kind."""
    if isinstance(error, ConversionError):
        said = error.cause if error.code in ("LPT-CONV-111", "LPT-CONV-114") else error.message
        said = said.partition("; in all: ")[0].removesuffix(".").removeprefix("it is ")
        return said.partition("cannot be translated to torch: ")[2] or said
    try:
        run(case, export, units=2)
    except Exception:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return UNITS


def against_runtime(found):
    """Compare cases with onnxruntime.

    Returns:
        ``same``: numbers of cases that agree by operator; ``differs``: reasons by case.
    """
    same, differs = Counter(), {}
    for name, case in found.items():
        if name.endswith("_expanded"):
            continue
        try:
            if compare_with_runtime(case):
                same[subject(case)] += 1
        except AssertionError as error:
            differs[name] = DISAGREEMENTS.get(name) or " ".join(str(error).split())[:200]
    return {"same": dict(same), "differs": differs}


_LENGTHS = (
    "onnxruntime puts the last pixel at the whole length of the result, ONNX and the bridge at "
    "the length times the factor"
)
DISAGREEMENTS = {
    "test_resize_downsample_scales_linear_align_corners": _LENGTHS,
    "test_resize_downsample_scales_cubic_align_corners": _LENGTHS,
}


def _lowered(model):
    """Return the model at the newest opset that the bridge reads, if it is newer than that.

    Raises:
        ValidationError: It is not valid there.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for opset in result.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > NEWEST:
            opset.version = NEWEST
    result.ir_version = min(result.ir_version, 11)
    onnx.checker.check_model(result)
    return result


def compare_with_runtime(case, seed=0):
    """Compare a case with onnxruntime, its floats drawn anew; return whether both can run it.

    Floats are drawn evenly from the range of the case's own; whole numbers, scalars and inputs that
    the translation must know stay as they are. A case of a newer opset is taken back to 24 where it
    is valid there.
    """
    inputs, _ = case.data_sets[0]
    rng = np.random.default_rng(seed)
    for all_numbers in (False, True):
        try:
            model, arrays = frozen(_lowered(case.model), inputs, all_numbers)
            arrays = [_drawn(rng, array) for array in arrays]
            with torch.no_grad():
                found = BridgeModule(read_graph(model))(*map(to_torch, arrays))
            break
        except (onnx.checker.ValidationError, ConversionError):
            if all_numbers:
                return False
    feeds = {i.name: a for i, a in zip(model.graph.input, arrays, strict=True)}
    expected = _of_runtime(model, feeds)
    if expected is None:
        return False
    masks = subject(case) == "Attention"
    for mine, theirs in zip(found, expected, strict=True):
        _compare_numbers(to_numpy(mine), theirs, masks)
    return True


def _of_runtime(model, feeds):
    """Return what onnxruntime gives, or ``None`` for what it has not, or not for these types."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,
    ):  # the last: types that it does not read from numpy
        return None


def _compare_numbers(mine, theirs, masks):
    """Compare a result with that of onnxruntime, which gives float8 as bytes.

    Args:
        mine: The bridge's.
        theirs: That of onnxruntime.
        masks: Whether they are of attention, which onnxruntime masks with its lowest number.
    """
    if mine.dtype.kind not in "biufc":
        mine, theirs = (a.view(mine.dtype).astype(np.float32) for a in (mine, theirs))
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype
    if masks and mine.dtype.kind == "f":
        theirs = np.where(theirs <= np.finfo(theirs.dtype).min, -np.inf, theirs)
    half = mine.dtype.itemsize == 2 and mine.dtype.kind == "f"
    rtol = 4 * float(np.finfo(mine.dtype).eps) if half else 1e-4
    np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol / 10)


def _drawn(rng, array):
    if array.dtype.kind != "f" or array.size < 2 or not np.isfinite(array).all():
        return array
    return rng.uniform(array.min(), array.max(), array.shape).astype(array.dtype)
