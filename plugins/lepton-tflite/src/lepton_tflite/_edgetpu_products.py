"""Products of a file for an Edge TPU, written as convolutions of one by one.

A recipe has a scale for each output of a product, and `FULLY_CONNECTED` has such scales in LiteRT
from 2024 on (its converter uses them since then). Google's compiler and the interpreters that go
with it are of 2021: TensorFlow Lite 2.6 runs such a file without a word and gives each output's
zero point, whatever the input. `CONV_2D` had a scale for each output from the beginning. Over rows
as the places of an image it computes the same from the same integers, scales and biases, so that
nothing of the recipe changes; and it may have many rows, where the table allows a product one.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tflite import _flatbuffer as flat
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONV_INT8 = 3
"""Version of CONV_2D from which it takes int8."""


def as_convolutions(model: Any) -> int:  # noqa: ANN401 - a generated class
    """Replace the products whose weights have a scale for each output; returns how many.

    Sizes have to be fixed. A weight that anything else reads as well stays, and so do its products.
    """
    graph = model.subgraphs[0]
    weights = _convertible(model, graph)
    operators, count = [], 0
    for operator in graph.operators:
        if _is_product(model, operator) and int(operator.inputs[1]) in weights:
            operators += _convolution(model, graph, operator)
            count += 1
        else:
            operators.append(operator)
    graph.operators = operators
    return count


def scales_of(tensor: Any) -> np.ndarray:  # noqa: ANN401 - a generated class
    """Return a tensor's scales; empty if it has none."""
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return np.asarray(() if scale is None else scale, np.float32)


def _is_product(model: Any, operator: Any) -> bool:  # noqa: ANN401 - generated classes
    return flat.operator_name(model.operatorCodes[operator.opcodeIndex]) == "FULLY_CONNECTED"


def _convertible(model: Any, graph: Any) -> set[int]:  # noqa: ANN401 - generated classes
    """Return the weights with many scales that products alone read, and as their weights."""
    found, others = set(), set()
    for operator in graph.operators:
        inputs = [int(i) for i in operator.inputs]
        if not _is_product(model, operator):
            others.update(inputs)
            continue
        others.update([inputs[0], *inputs[2:]])
        x, weight = graph.tensors[inputs[0]], graph.tensors[inputs[1]]
        fixed = x.shape is not None and (x.shapeSignature is None or -1 not in x.shapeSignature)
        kinds = {flat.DTYPES.get(t.type) for t in (x, weight)}
        plain = schema.FullyConnectedOptionsWeightsFormat.DEFAULT
        if (
            fixed
            and kinds == {"int8"}
            and len(scales_of(weight)) > 1
            and flat.array_of(model, weight) is not None
            and getattr(operator.builtinOptions, "weightsFormat", plain) == plain
        ):
            found.add(inputs[1])
        else:
            others.add(inputs[1])
    return found - others


def _convolution(model: Any, graph: Any, product: Any) -> Iterator[Any]:  # noqa: ANN401
    x, w, *bias = (int(i) for i in product.inputs)
    (y,) = (int(i) for i in product.outputs)
    weight = graph.tensors[w]
    outputs, inputs = int(weight.shape[0]), int(weight.shape[-1])
    weight.shape = np.asarray((outputs, 1, 1, inputs), np.int32)  # as it is, if seen before
    rows = int(np.prod(graph.tensors[x].shape, dtype=np.int64)) // inputs
    image, made = (1, rows, 1, inputs), (1, rows, 1, outputs)
    if tuple(graph.tensors[x].shape) != image:
        there = _like(graph, x, image, "tfl.rows")
        yield _reshape(model, graph, x, there)
        x = there
    straight = tuple(graph.tensors[y].shape) == made
    out = y if straight else _like(graph, y, made, f"{flat.text(graph.tensors[y].name)};rows")
    given = bias[0] if bias and bias[0] >= 0 else _no_bias(model, graph, x, w)
    code = flat.operator_code(model, schema.BuiltinOperator.CONV_2D, _CONV_INT8)
    operator = flat.make_operator(code, [x, w, given], [out])
    options = operator.builtinOptions = schema.Conv2DOptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    options.padding = schema.Padding.VALID
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    none = schema.ActivationFunctionType.NONE
    options.fusedActivationFunction = getattr(
        product.builtinOptions, "fusedActivationFunction", none
    )
    yield operator
    if not straight:
        yield _reshape(model, graph, out, y)


def _like(graph: Any, index: int, shape: tuple[int, ...], name: str) -> int:  # noqa: ANN401
    """Add a tensor of int8 on the grid of another one; returns its index."""
    made = flat.add_tensor(graph, name, "int8", shape)
    graph.tensors[made].quantization = deepcopy(graph.tensors[index].quantization)
    return made


def _reshape(model: Any, graph: Any, source: int, result: int) -> Any:  # noqa: ANN401
    shape = np.asarray(graph.tensors[result].shape, np.int32)
    sizes = flat.add_tensor(graph, "tfl.shape", "int32", shape.shape)
    flat.set_array(model, graph.tensors[sizes], shape)
    code = flat.operator_code(model, schema.BuiltinOperator.RESHAPE)
    operator = flat.make_operator(code, [source, sizes], [result])
    operator.builtinOptions = schema.ReshapeOptionsT()
    operator.builtinOptions.newShape = shape
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    return operator


def _no_bias(model: Any, graph: Any, x: int, weight: int) -> int:  # noqa: ANN401
    """Add a bias of zeros, which every kernel takes; returns its index."""
    scale = scales_of(graph.tensors[x])[0] * scales_of(graph.tensors[weight])
    made = flat.add_tensor(graph, "tfl.zeros", "int32", scale.shape)
    flat.set_array(model, graph.tensors[made], np.zeros(scale.shape, np.int32))
    own = graph.tensors[made].quantization = schema.QuantizationParametersT()
    own.scale, own.zeroPoint = scale.astype(np.float32), np.zeros(scale.shape, np.int64)
    return made


__all__ = ["as_convolutions", "scales_of"]
