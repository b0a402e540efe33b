"""What `lepton check` says of operators without a kernel, held against the converter."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from lepton_core.errors import ConversionError
from lepton_core.types import ConvertRequest
from lepton_tflite import plugin
from lepton_tflite._operators import NO_KERNEL, why_not

pytestmark = pytest.mark.xdist_group("tflite")


@cache
def node_tests():
    """Return one of ONNX's own tests for each operator that a test has alone, by operator."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        found = load_model_tests(kind="node")
    alone = [case for case in found if len(case.model.graph.node) == 1]
    return {case.model.graph.node[0].op_type: case for case in reversed(alone)}


def frozen(case):
    """Return a test's model; all inputs but the first are constants, as in a trained model."""
    model = ModelProto()
    model.CopyFrom(case.model)
    (values, *_), *_ = case.data_sets
    for info, value in list(zip(model.graph.input, values, strict=True))[1:]:
        array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), info.name))
        model.graph.input.remove(info)
    return model


@pytest.mark.conformance
@pytest.mark.parametrize("operator", NO_KERNEL)
def test_operators_that_are_said_to_have_no_kernel_have_none(operator, to_pivot, context):
    pytest.importorskip("litert_torch")
    pivot = to_pivot(frozen(node_tests()[operator]))
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code in ("LPT-CONV-402", "LPT-CONV-404")


@pytest.mark.parametrize("operator", NO_KERNEL)
def test_each_of_them_is_translated_to_torch(operator):
    """Others are not in the table: their reason is that the bridge lacks them."""
    catalogue = pytest.importorskip("lepton_torch._bridge.catalogue")
    assert catalogue.covered(f"ai.onnx::{operator}")
    assert why_not(f"ai.onnx::{operator}") == NO_KERNEL[operator]
