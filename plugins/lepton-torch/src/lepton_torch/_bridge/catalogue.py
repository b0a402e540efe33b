"""Which operators of ONNX the bridge translates, by family: plain data, imports nothing.

A test holds it against the table that the translations fill, and the reference page is made
from it.
"""

from __future__ import annotations

FAMILIES: dict[str, str] = {
    "activation": (
        "Celu Dropout Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish PRelu "
        "Relu Selu Shrink Sigmoid Softmax Softplus Softsign Swish ThresholdedRelu"
    ),
    "attention": "Attention RotaryEmbedding",
    "elementwise": (
        "Abs Acos Acosh Add Asin Asinh Atan Atanh Cast CastLike Ceil Clip Cos Cosh CumSum Div "
        "Erf Exp Floor Identity Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sign Sin "
        "Sinh Sqrt Sub Sum Tan Tanh Where"
    ),
    "indexing": (
        "Compress Gather GatherElements GatherND NonZero OneHot Scatter ScatterElements "
        "ScatterND Slice TensorScatter"
    ),
    "linear": "Col2Im Conv ConvTranspose Det Einsum Gemm MatMul",
    "logic": (
        "And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual "
        "IsInf IsNaN Less LessOrEqual Not Or Xor"
    ),
    "norm": (
        "BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization "
        "LpNormalization MeanVarianceNormalization RMSNormalization"
    ),
    "pool": "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool",
    "quantization": (
        "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv "
        "QLinearMatMul QuantizeLinear"
    ),
    "recurrent": "GRU LSTM RNN",
    "reduction": (
        "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
        "ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK"
    ),
    "resize": "AffineGrid GridSample Resize Upsample",
    "shape": (
        "CenterCropPad Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Pad Range "
        "Reshape ReverseSequence Shape Size SpaceToDepth Split Squeeze Tile Transpose Trilu "
        "Unsqueeze"
    ),
}
"""Names of operators, separated by blanks, by the file that translates them."""

EXPANDED = (
    "BlackmanWindow HammingWindow HannWindow NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"
)
"""Names of operators that are replaced by the body that ONNX defines for them."""

NAMES = frozenset(" ".join((*FAMILIES.values(), EXPANDED, "Constant")).split())
"""Every operator that a graph may use."""


def covered(name: str) -> bool:
    """Tell whether an operator is translated.

    Args:
        name: As :func:`lepton_onnx.operators.qualified_name` writes it: ``ai.onnx::Add``.
    """
    domain, _, operator = name.rpartition("::")
    return domain in ("", "ai.onnx") and operator in NAMES
