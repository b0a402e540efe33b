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
from lepton_tflite._operators import ATEN, NO_KERNEL, why_not

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
    catalogue = pytest.importorskip("lepton_torch.catalogue")
    assert catalogue.covered(f"ai.onnx::{operator}")
    assert why_not(f"ai.onnx::{operator}") == NO_KERNEL[operator]


@pytest.mark.conformance
def test_torchs_operators_become_what_the_table_says():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x, i):
            return (
                torch.det(x), torch.linalg.det(x), i << 1, i >> 1, torch.bitwise_left_shift(i, i),
                torch.bitwise_right_shift(i, i), torch.logical_xor(x > 0, x > 1),
                torch.nn.functional.fold(x, (3, 3), (2, 2)), torch.nonzero(x),
                *torch.where(x > 0),
            )  # fmt: skip

    given = (torch.rand(1, 4, 4), torch.ones(2, 3, dtype=torch.int64))
    program = torch.export.export(Net(), given)
    names = {str(n.target).removeprefix("aten.") for n in program.graph.nodes}
    names |= {name.partition(".")[0] for name in names}
    assert set(ATEN) <= names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert set(ATEN.values()) <= {node.op_type for node in written.model.graph}
    assert {why_not(f"aten.{name}") for name in ATEN} <= set(NO_KERNEL.values())
    assert not why_not("aten.where.self")
