"""Integers, scales and zero points of a file: held against the recipe, named, and read back.

litert-torch is given scales and zero points and quantizes the weights itself. So after it has
done so, every weight is looked up in the file by its integers, in whatever order of axes it stands
there, and gets the name that the ONNX lowering gives it (``conv.weight/int8``). A weight that is
not there to the last bit ends the run. So do other numbers than the recipe's (or none) before and
behind a layer with a weight and at the model's inputs and outputs, other numbers behind an operator
that only moves integers than before it, and numbers elsewhere that the recipe has for no value.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from lepton_core.errors import ConversionError
from lepton_tflite import _flatbuffer as flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto

    from lepton_core.recipe import Layer, Recipe

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Softmax", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Operators that become int8 kernels of LiteRT. ConvTranspose has one, but the converter turns its
weight over and folds it into floats on the way."""

_WEIGHTED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
"""Operators whose second input is a weight."""

_MOVING = (
    "EXPAND_DIMS", "MAX_POOL_2D", "RESHAPE", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE",
)  # fmt: skip
"""Operators whose kernels hand integers on as they are, so both ends need the same numbers."""


def check_integers(model: Any, lowered: ModelProto, recipe: Recipe) -> dict[str, Any]:  # noqa: ANN401
    """Hold a converted file against the graph that it was made from, and name its tensors.

    Args:
        model: ``ModelT``; names of tensors and integers of biases are changed.
        lowered: The recipe's Q/DQ graph.
        recipe: The recipe.

    Returns:
        How each weight stands in the file, for the notes: ``order`` (axes) and ``shape``, and
        ``stored_as``, the weight of equal integers whose name their tensor has.

    Raises:
        ConversionError: LPT-CONV-411, the file holds other numbers.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in lowered.graph.initializer}
    graph = model.subgraphs[0]
    found: dict[str, Any] = {}
    matches: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, codes in constants.items():
        weight = name.removesuffix("/int8")
        if weight == name or weight not in recipe.tensors:
            continue
        scale = np.asarray(recipe.tensors[weight].scale)
        places = dict(_matches(model, graph, codes, scale))
        if places:
            matches[weight] = places
        else:
            raise differs(f"The weight {weight!r} does not stand in the file as it should.")
    homes = _check_layers(model, graph, matches, recipe, constants)
    readers = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    named: dict[int, list[str]] = {}
    for weight, orders in matches.items():
        free = (i for i in orders if i not in homes.values() and i not in named)
        index = homes.get(weight, next(free, next(iter(orders))))
        names = named.setdefault(index, [])
        names.append(weight)
        if len(names) > readers[index]:  # an equal one stands there, and this one does not
            raise differs(f"The weight {weight!r} does not stand in the file as it should.")
        shape = constants[f"{weight}/int8"].shape
        found[weight] = {"order": list(orders[index]), "shape": list(shape)}
        if names[0] != weight:  # the converter merges equal weights
            found[weight]["stored_as"] = names[0]
        graph.tensors[index].name = f"{names[0]}/int8".encode()
    _check_activations(model, graph, recipe)
    _check_moves(model, graph)
    return found


def differs(cause: str) -> ConversionError:
    """Return what says that a file holds other numbers than the recipe."""
    return ConversionError(
        "LPT-CONV-411",
        "The converted file holds other integers or scales than the recipe",
        cause=cause,
        remedy="Report this model as a bug; another target may lower the recipe.",
    )


def numbers_of(tensor: Any) -> tuple[NDArray[np.float32], NDArray[Any]] | None:  # noqa: ANN401
    """Return scales and zero points of a tensor, if it has them."""
    own = tensor.quantization
    if own is None or own.scale is None or not len(own.scale):
        return None
    scale = np.asarray(own.scale, np.float32)
    zero = own.zeroPoint if own.zeroPoint is not None else np.zeros(len(scale))
    return scale, np.asarray(zero, np.int64)


def _matches(
    model: Any,  # noqa: ANN401 - a generated class
    graph: Any,  # noqa: ANN401 - a generated class
    codes: NDArray[Any],
    scale: NDArray[Any],
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the tensors with these integers and scales, and the order of axes that each has."""
    wanted = np.ravel(scale).astype(np.float32)
    for index, tensor in enumerate(graph.tensors):
        numbers = numbers_of(tensor)
        if numbers is None or flat.DTYPES.get(tensor.type) != "int8":
            continue
        values = flat.array_of(model, tensor)
        if values is None or values.size != codes.size:
            continue
        if not np.array_equal(numbers[0], wanted) or numbers[1].any():
            continue
        for order in axis_orders(codes.shape, values.shape):
            if np.array_equal(codes.transpose(order).reshape(values.shape), values):
                yield index, order
                break


def axis_orders(shape: tuple[int, ...], other: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield orders of axes in which an array may stand as another; axes of 1 come and go."""
    squeezed = [d for d in other if d != 1]
    for order in permutations(range(len(shape))):
        if [shape[i] for i in order if shape[i] != 1] == squeezed:
            yield order


def _check_layers(
    model: Any,  # noqa: ANN401
    graph: Any,  # noqa: ANN401
    matches: dict[str, dict[int, tuple[int, ...]]],
    recipe: Recipe,
    constants: dict[str, Any],
) -> dict[str, int]:
    """Check what goes into and comes out of each layer with a weight, and its bias.

    Returns:
        The tensor of each weight whose layer was found.
    """
    layers = {v.weight: (k, v) for k, v in recipe.layers.items() if v.weight}
    shared = [v.weight for v in recipe.layers.values() if v.weight]
    homes: dict[str, int] = {}
    for operator in graph.operators:
        name = flat.operator_name(model.operatorCodes[operator.opcodeIndex])
        index = int(operator.inputs[1]) if name in _WEIGHTED else -1
        weights = [w for w, places in matches.items() if index in places]
        weights = [w for w in weights if w not in homes] or weights
        if not weights or any(shared.count(w) != 1 for w in weights):
            continue
        bias = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
        tensor = graph.tensors[bias] if name != "TRANSPOSE_CONV" and bias >= 0 else None
        found = flat.array_of(model, tensor) if tensor is not None else None
        ends = _ends(graph, operator, name)
        key, layer = _layer_of(ends, found, [layers[w] for w in weights], recipe, constants)
        homes[str(layer.weight)] = index
        if layer.output in recipe.tensors:
            ends[1].name = f"{layer.output}/int8".encode()
        codes = constants.get(f"{key}/bias/int32")
        if tensor is not None and codes is not None:
            flat.set_array(model, tensor, codes.astype(np.int32))
            tensor.name = f"{key}/bias/int32".encode()
    return homes


def _ends(graph: Any, operator: Any, name: str) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the tensors that a layer with a weight takes and gives."""
    source = operator.inputs[2 if name == "TRANSPOSE_CONV" else 0]
    return graph.tensors[source], graph.tensors[operator.outputs[0]]


def _layer_of(
    ends: tuple[Any, Any],
    bias: NDArray[Any] | None,
    layers: list[tuple[str, Layer]],
    recipe: Recipe,
    constants: dict[str, Any],
) -> tuple[str, Layer]:
    """Return which of the layers with equal weights an operator is, with its key.

    It is one whose values before and behind it have the operator's scales and zero points; of
    several such, the one with the nearest bias, as the converter may round a bias differently.
    """
    fitting, refused = [], []
    for key, layer in layers:
        try:
            for tensor, value in zip(ends, (layer.inputs[0], layer.output), strict=True):
                if value in recipe.tensors:
                    _check_value(tensor, value, recipe)
        except ConversionError as error:
            refused.append(error)
        else:
            fitting.append((key, layer))
    if not fitting:
        raise refused[0]

    def distance(found: tuple[str, Layer]) -> float:
        none = np.zeros(1)
        codes = constants.get(f"{found[0]}/bias/int32", none)
        own = none if bias is None else bias
        return float(np.abs(np.ravel(own).astype(np.float64) - np.ravel(codes)).sum())

    return min(fitting, key=distance)


def _pair(tensor: Any) -> tuple[np.float32, int] | None:  # noqa: ANN401 - a generated class
    """Return scale and zero point of an int8 activation, ``None`` for anything else."""
    numbers = numbers_of(tensor)
    if numbers is None or flat.DTYPES.get(tensor.type) != "int8":
        return None
    return numbers[0][0], int(numbers[1][0])


def _check_value(tensor: Any, value: str, recipe: Recipe) -> None:  # noqa: ANN401
    pair, wanted = _pair(tensor), recipe.tensors[value]
    if pair is None:
        raise differs(f"{value!r} is {flat.DTYPES.get(tensor.type)} without a scale in int8.")
    if pair != (np.float32(wanted.scales[0]), wanted.zero_point):
        raise differs(f"{value!r} has the scale {pair[0]} and zero {pair[1]}.")


def _check_moves(model: Any, graph: Any) -> None:  # noqa: ANN401 - generated classes
    """Check that what only moves integers gives them the numbers that it takes them with."""
    for operator in graph.operators:
        name = flat.operator_name(model.operatorCodes[operator.opcodeIndex])
        if name not in _MOVING:
            continue
        before, behind = (graph.tensors[i] for i in (operator.inputs[0], operator.outputs[0]))
        if _pair(before) != _pair(behind):
            raise differs(
                f"{name} changes the scale and zero {_pair(before)} to {_pair(behind)} without "
                "computing."
            )


def check_border(model: Any, lowered: ModelProto, recipe: Recipe) -> None:  # noqa: ANN401
    """Check the integers next to the float inputs and outputs that the recipe quantizes.

    Args:
        model: ``ModelT`` with float ports, named as the pivot's.
        lowered: The recipe's Q/DQ graph.
        recipe: The recipe.

    Raises:
        ConversionError: LPT-CONV-411, a port has other numbers or none.
    """
    graph, port = model.subgraphs[0], model.signatureDefs[0]
    for entries, op, end in ((port.inputs, "Quantize", "input"),
                             (port.outputs, "Dequantize", "output")):  # fmt: skip
        quantized = {getattr(n, end)[0] for n in lowered.graph.node if n.op_type == f"{op}Linear"}
        for entry in entries:
            value = flat.text(entry.name)
            if value not in quantized:
                continue
            found = list(_beside(model, graph, int(entry.tensorIndex), op.upper()))
            if not found:
                raise differs(f"{value!r} is not quantized.")
            for tensor in found:
                _check_value(tensor, value, recipe)


def _beside(model: Any, graph: Any, index: int, conversion: str) -> Iterator[Any]:  # noqa: ANN401
    """Yield the other ends of the conversions at a port; floats may be moved in between."""
    incoming = conversion == "QUANTIZE"
    for operator in graph.operators:
        name = flat.operator_name(model.operatorCodes[operator.opcodeIndex])
        outer, inner = int(operator.inputs[0]), int(operator.outputs[0])
        if not incoming:
            outer, inner = inner, outer
        if outer == index and name == conversion:
            yield graph.tensors[inner]
        elif outer == index and name in _MOVING:
            yield from _beside(model, graph, inner, conversion)


def _check_activations(model: Any, graph: Any, recipe: Recipe) -> None:  # noqa: ANN401
    """Check that no activation has numbers that the recipe does not know."""
    known = {
        (np.float32(t.scales[0]), t.zero_point)
        for t in recipe.tensors.values()
        if t.kind == "activation"
    }
    for tensor in graph.tensors:
        pair = _pair(tensor)
        if pair is None or flat.array_of(model, tensor) is not None:
            continue
        if pair not in known:
            raise differs(f"{flat.text(tensor.name)!r} has the scale and zero {pair}.")


__all__ = [
    "INTEGER_OPS",
    "axis_orders",
    "check_border",
    "check_integers",
    "differs",
    "numbers_of",
]
