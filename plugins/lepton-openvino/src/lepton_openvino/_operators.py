"""Which operators of which domains OpenVINO's ONNX frontend has a conversion rule for.

OpenVINO has no call that lists them, and trying an operator out can end the process, so the table
is data. Of ONNX's own operators nearly all have a rule; those without one are the target's
declared ``forbidden_ops``. The tests ask the installed OpenVINO about both lists.
"""

from __future__ import annotations

from lepton_openvino.info import INFO

MICROSOFT = frozenset(
    {
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GatherND",
        "Gelu",
        "GroupQueryAttention",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "Pad",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuantizeLinear",
        "QuickGelu",
        "Range",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Trilu",
    }
)
"""Operators of the domain ``com.microsoft`` that have a conversion rule."""

OTHER = {"ai.onnx.ml": frozenset({"Normalizer"}), "com.microsoft": MICROSOFT}
"""Operators with a conversion rule, by domain other than ONNX's own."""


def is_known(name: str) -> bool:
    """Tell whether OpenVINO has a rule for an operator.

    Args:
        name: Qualified name (``"ai.onnx::Conv"``, ``"com.microsoft::Gelu"``).
    """
    domain, _, operator = name.rpartition("::")
    if domain in ("", "ai.onnx"):
        return operator not in INFO.constraints.forbidden_ops
    return operator in OTHER.get(domain, ())


__all__ = ["MICROSOFT", "OTHER", "is_known"]
