"""Which operators Google's compiler maps onto an Edge TPU, and under which conditions.

The source is Google's own table: "TensorFlow models on the Edge TPU", section "Supported
operations" (:data:`SOURCE`), with the limits that it states for the newest runtime (14, compiler
16). It was compared in November 2026 with the copies of it that could be read: the table that Axis
has for ARTPEC-7, whose unit is an Edge TPU (operators and limits up to ``ResizeBilinear``), a list
of all 40 operators, and a copy of 2019 (the limits of the others, as they were then). That
splitting and summing keep off the batch is in none of these. Where the table speaks of the batch
dimension, that is the first of a tensor of two or more dimensions here. Where it says that an
operator "might not be mapped", for sizes that it does not state, that is kept apart
(:data:`UNCERTAIN`).

Beyond the table stand what reports on the compiler say and what was seen in TensorFlow Lite 2.6,
which is as old as compiler 16: see :data:`_TOO_NEW` and :func:`_fully_connected`. The compiler has
not been run on what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tflite._edgetpu_products import scales_of
from lepton_tflite._flatbuffer import DTYPES, array_of, operator_name, text
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOURCE = "https://coral.ai/docs/edgetpu/models-intro/#supported-operations"

_LONGEST_SOFTMAX = 16_000
_WEIGHTED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
_PARAMETERS = {"UNIDIRECTIONAL_SEQUENCE_LSTM": (*range(1, 18), *range(20, 24)), "PRELU": (1,)}
"""Inputs beside weights and biases that have to be constants."""

_TOO_NEW = {
    "ADD": 5, "CONCATENATION": 4, "CONV_2D": 6, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 10,
    "MUL": 6, "PACK": 4, "RSQRT": 3, "SLICE": 6, "STRIDED_SLICE": 7, "TRANSPOSE": 6,
    "TRANSPOSE_CONV": 4, "UNIDIRECTIONAL_SEQUENCE_LSTM": 4,
}  # fmt: skip
"""The first version of an operator that came after compiler 16 (July 2021): with TensorFlow Lite
2.9 or later, by LiteRT's own list (tflite/tools/versioning/runtime_version.cc). The compiler
refuses a file that has one: reported for CONV_2D 6 (google-coral/edgetpu issue 631) and
TRANSPOSE_CONV 4 (issue 845)."""

_RESIZED = (
    "depending on its sizes it is not mapped, to avoid loss in precision; and compilers 14 and 15 "
    "are reported to leave it to the CPU in versions that have half pixel centers"
)
UNCERTAIN = {
    "RESHAPE": "certain reshapes are not mapped for large tensors",
    "RESIZE_BILINEAR": _RESIZED,
    "RESIZE_NEAREST_NEIGHBOR": _RESIZED,
}
"""What may be left to the CPU for a reason that the table does not give in numbers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An operator of a file as the rules look at it.

    Attributes:
        model: The file, unpacked.
        operator: One of its operators.
        inputs: Tensors; ``None`` where an optional one is left out.
        outputs: Tensors.
    """

    model: Any
    operator: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The format's name of the operator."""
        return operator_name(self.model.operatorCodes[self.operator.opcodeIndex])

    @property
    def version(self) -> int:
        """The operator's version."""
        return int(self.model.operatorCodes[self.operator.opcodeIndex].version)

    def constant(self, number: int) -> np.ndarray | None:
        """Return an input's values if the file holds them."""
        tensor = self.inputs[number] if number < len(self.inputs) else None
        return None if tensor is None else array_of(self.model, tensor)

    def option(self, name: str, otherwise: Any = 0) -> Any:  # noqa: ANN401
        """Return one of the operator's options."""
        return getattr(self.operator.builtinOptions, name, otherwise)


def see(model: Any, graph: Any, operator: Any) -> Seen:  # noqa: ANN401 - generated classes
    """Return an operator of a subgraph as the rules look at it."""

    def tensors(indices: Any) -> tuple[Any, ...]:  # noqa: ANN401
        found = () if indices is None else indices
        return tuple(graph.tensors[i] if i >= 0 else None for i in found)

    return Seen(model, operator, tensors(operator.inputs), tensors(operator.outputs))


def shape_of(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401 - a generated class
    """Return a tensor's sizes."""
    return tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))


def why_not(seen: Seen) -> str:
    """Return why an operator is not mapped, or an empty text."""
    rule = _RULES.get(seen.name)
    if rule is None:
        return "the compiler does not know the operator"
    return _too_new(seen) or _types(seen) or _ranks(seen) or _parameters(seen) or rule(seen)


def _too_new(seen: Seen) -> str:
    if seen.version < _TOO_NEW.get(seen.name, seen.version + 1):
        return ""
    return f"its version {seen.version} is newer than the compiler, which refuses such a file"


def _types(seen: Seen) -> str:
    moving = [
        tensor
        for i, tensor in enumerate(seen.inputs)
        # The state that an LSTM keeps is its own matter; LiteRT has 16 bits for it.
        if tensor is not None and seen.constant(i) is None and not tensor.isVariable
    ]
    for tensor in (*moving, *seen.outputs):
        kind = DTYPES.get(tensor.type, "unknown")
        if kind not in ("int8", "uint8"):
            return f"{text(tensor.name)!r} is {kind}, and tensors have to be of 8 bits"
    return ""


def _ranks(seen: Seen) -> str:
    moving = (t for i, t in enumerate(seen.inputs) if seen.constant(i) is None)
    for tensor in (*filter(None, moving), *seen.outputs):
        shape = shape_of(tensor)
        if len(shape) > 3 and any(size != 1 for size in shape[:-3]):
            return (
                f"{text(tensor.name)!r} has the shape {list(shape)}, where only the three "
                "innermost dimensions may be larger than 1"
            )
    return ""


def _parameters(seen: Seen) -> str:
    number = _WEIGHTED.get(seen.name)
    if number is not None and seen.constant(number) is None:
        return "its weights are computed, and parameters have to be constants"
    for other in _PARAMETERS.get(seen.name, ()):
        tensor = seen.inputs[other] if other < len(seen.inputs) else None
        if tensor is not None and seen.constant(other) is None:
            return f"{text(tensor.name)!r} is computed, and parameters have to be constants"
    return ""


def _free(seen: Seen) -> str:
    return ""


def _no_activation(seen: Seen) -> str:
    kind = seen.option("fusedActivationFunction")
    none = schema.ActivationFunctionType.NONE
    return "" if kind == none else "an activation function is fused into it"


def _same_dilation(seen: Seen) -> str:
    two = seen.option("dilationHFactor", 1), seen.option("dilationWFactor", 1)
    return "" if two[0] == two[1] else f"its dilation is {two[0]} x {two[1]}, not the same in both"


def _fully_connected(seen: Seen) -> str:
    plain = schema.FullyConnectedOptionsWeightsFormat.DEFAULT
    if seen.option("weightsFormat", plain) != plain:
        return "its weights are not of the default format"
    if len(scales_of(seen.inputs[1])) > 1:
        return (
            "its weights have a scale for each output, and interpreters of the compiler's age give "
            "wrong values for such a product"
        )
    return _one_dimension(seen.outputs[0], "output")


def _one_dimension(tensor: Any, which: str) -> str:  # noqa: ANN401 - a generated class
    shape = shape_of(tensor)
    large = [size for size in shape if size != 1]
    return "" if len(large) <= 1 else f"its {which} {list(shape)} has more than one dimension"


def _softmax(seen: Seen) -> str:
    size = int(np.prod(shape_of(seen.inputs[0]), dtype=np.int64))
    if size > _LONGEST_SOFTMAX:
        return f"its input has {size} elements, more than {_LONGEST_SOFTMAX}"
    return _one_dimension(seen.inputs[0], "input")


def _concatenation(seen: Seen) -> str:
    found = [seen.constant(i) for i in range(len(seen.inputs))]
    fixed = [
        (values, _zero_of(tensor))
        for values, tensor in zip(found, seen.inputs, strict=True)
        if values is not None
    ]
    if fixed and (len(found) != 2 or any((values != zero).any() for values, zero in fixed)):
        return "one of its inputs is a constant, which only zeros beside one other input may be"
    return _no_activation(seen)


def _zero_of(tensor: Any) -> int:  # noqa: ANN401 - a generated class
    """Return the integer that stands for 0."""
    grid = tensor.quantization
    points = None if grid is None else grid.zeroPoint
    return 0 if points is None or not len(points) else int(points[0])


def _axes(seen: Seen, number: int = 1) -> list[int] | None:
    """Return the axes that an input holds, counted from the front; ``None`` if computed."""
    values = seen.constant(number)
    rank = len(shape_of(seen.inputs[0]))
    return None if values is None else [int(a) % max(rank, 1) for a in values.reshape(-1)]


def _off_the_batch(seen: Seen, axes: Sequence[int] | None, rank: int) -> str:
    if axes is None:
        return "its axes are computed, and parameters have to be constants"
    return "it works along the batch dimension" if rank > 1 and 0 in axes else ""


def _reduction(seen: Seen) -> str:
    return _off_the_batch(seen, _axes(seen), len(shape_of(seen.inputs[0])))


def _mean(seen: Seen) -> str:
    shape, axes = shape_of(seen.inputs[0]), _axes(seen)
    wrong = _off_the_batch(seen, axes, len(shape))
    if not wrong and axes and len(shape) - 1 in axes and shape[-1] % 4:
        return f"it reduces the innermost dimension, whose size {shape[-1]} is no multiple of 4"
    return wrong


def _split(seen: Seen) -> str:
    axis, rank = seen.constant(0), len(shape_of(seen.inputs[1]))
    axes = None if axis is None else [int(axis.reshape(-1)[0]) % max(rank, 1)]
    return _off_the_batch(seen, axes, rank)


def _pack(seen: Seen) -> str:
    rank = len(shape_of(seen.outputs[0]))
    return _off_the_batch(seen, [int(seen.option("axis")) % max(rank, 1)], rank)


def _pad(seen: Seen) -> str:
    sizes = seen.constant(1)
    if sizes is None:
        return "its sizes are computed, and parameters have to be constants"
    return "it pads the batch dimension" if len(sizes) > 1 and sizes[0].any() else ""


def _prelu(seen: Seen) -> str:
    alpha = shape_of(seen.inputs[1])
    inner = all(size == 1 for size in alpha[:-1])
    return "" if inner else f"its slopes {list(alpha)} differ in more than the innermost dimension"


def _squeeze(seen: Seen) -> str:
    shape = shape_of(seen.inputs[0])
    given = seen.option("squeezeDims", None)
    named = [] if given is None else [int(i) % max(len(shape), 1) for i in given]
    gone = named or [i for i, size in enumerate(shape) if size == 1]
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return "" if all(i < first for i in gone) else "it takes away more than leading ones"


def _strided_slice(seen: Seen) -> str:
    strides = seen.constant(3)
    if strides is None or any(int(step) != 1 for step in strides.reshape(-1)):
        return "its strides are not all 1"
    masks = seen.option("ellipsisMask") or seen.option("newAxisMask")
    return "it has an ellipsis or a new axis" if masks else ""


_RULES: dict[str, Callable[[Seen], str]] = {
    "ADD": _free,
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _same_dilation,
    "DEPTHWISE_CONV_2D": _same_dilation,
    "EXPAND_DIMS": _free,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": _free,
    "LOGISTIC": _free,
    "MAXIMUM": _free,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _mean,
    "MINIMUM": _free,
    "MUL": _free,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "QUANTIZE": _free,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "RELU": _free,
    "RELU6": _free,
    "RELU_N1_TO_1": _free,
    "RESHAPE": _free,
    "RESIZE_BILINEAR": _free,
    "RESIZE_NEAREST_NEIGHBOR": _free,
    "RSQRT": _free,
    "SLICE": _free,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _free,
    "SPLIT": _split,
    "SQUARED_DIFFERENCE": _free,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _free,
    "SUM": _reduction,
    "TANH": _free,
    "TRANSPOSE": _free,
    "TRANSPOSE_CONV": _free,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _free,
}
"""What else has to hold of each operator that the table names."""

KNOWN = tuple(_RULES)

_ONNX = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv",
    "ConvTranspose", "Dropout", "Flatten", "Gemm", "GlobalAveragePool", "Identity", "MatMul",
    "Max", "MaxPool", "Min", "Mul", "PRelu", "Pad", "QuantizeLinear", "DequantizeLinear",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid",
    "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Tanh", "Transpose",
    "Unsqueeze", "Upsample",
    "Shape", "Size", "ConstantOfShape", "Range",
}  # fmt: skip
_ATEN = {
    "add", "adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "cat", "clamp", "clone", "conv2d",
    "conv_transpose2d", "contiguous", "dropout", "flatten", "hardtanh", "linear", "matmul", "mm",
    "max_pool2d", "maximum", "mean", "minimum", "mul", "pad", "permute", "prelu", "relu", "relu6",
    "reshape", "rsqrt", "sigmoid", "slice", "softmax", "split", "squeeze", "stack", "sub", "sum",
    "tanh", "transpose", "unsqueeze", "upsample_bilinear2d", "upsample_nearest2d", "view",
    "interpolate", "addmm", "t", "amax", "amin",
    "sym_size", "arange", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like",
}  # fmt: skip
"""Operators of sources that become nothing but known ones, or constants where every size is fixed.
What they become in this model, and whether the conditions hold, is seen when it is converted."""


def has_a_way(name: str) -> bool:
    """Tell whether a source's operator may be mapped, as far as its name tells.

    Args:
        name: Qualified (``"ai.onnx::Conv"``), or torch's (``"aten.conv2d.default"``).
    """
    if name.startswith("aten."):
        return name.removeprefix("aten.").partition(".")[0].rstrip("_") in _ATEN
    return name.rpartition("::")[2] in _ONNX


__all__ = ["KNOWN", "SOURCE", "UNCERTAIN", "Seen", "has_a_way", "see", "shape_of", "why_not"]
