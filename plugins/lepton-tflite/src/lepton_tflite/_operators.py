"""Operators of the pivot that do not reach a file that the runtime runs.

The bridge to torch has no translation of them, litert-torch 0.10 does not lower them, or what it
lowers them to has no kernel in the runtime. Found by converting one of ONNX's own backend tests
for each operator that the bridge translates. Whether those of the table still fail is seen with
``pytest -m conformance plugins/lepton-tflite/tests/test_tflite_operators.py``.
"""

from __future__ import annotations

_SIZES = "the size of its result depends on values"
_NO_LOWERING = "litert-torch does not lower it"
_NO_INTEGERS = "LiteRT has no kernel for it, only TensorFlow's (Flex)"
_DOUBLE = "litert-torch fails on the float64 that its integers are multiplied in"

NO_KERNEL = {
    "NonZero": _SIZES,
    "Compress": _SIZES,
    "Det": _NO_LOWERING,
    "BitShift": _NO_LOWERING,
    "BitwiseAnd": _NO_INTEGERS,
    "BitwiseOr": _NO_INTEGERS,
    "Col2Im": "litert-torch writes it with an iota, for which the runtime has no kernel",
    "ConvInteger": _DOUBLE,
    "MatMulInteger": _DOUBLE,
    "QLinearConv": _DOUBLE,
    "QLinearMatMul": _DOUBLE,
}
"""Why, by operator, for those that the bridge translates."""

ATEN = {
    "nonzero": "NonZero",
    "where.default": "NonZero",
    "det": "Det",
    "linalg_det": "Det",
    "bitwise_left_shift": "BitShift",
    "bitwise_right_shift": "BitShift",
    "__lshift__": "BitShift",
    "__rshift__": "BitShift",
    "col2im": "Col2Im",
}
"""What torch's operators become in the pivot. Left out is what a name does not tell: whether
``bitwise_and`` and ``bitwise_or`` take integers or booleans, and whether an index is a mask."""


def why_not(name: str) -> str:
    """Return why an operator cannot be run, or an empty text.

    Args:
        name: Qualified name (``"ai.onnx::Conv"``), or torch's (``"aten.topk.default"``).
    """
    if name.startswith("aten."):
        operator = name.removeprefix("aten.")
        became = ATEN.get(operator) or ATEN.get(operator.partition(".")[0], "")
        return NO_KERNEL.get(became, "")
    domain, _, operator = name.rpartition("::")
    if domain not in ("", "ai.onnx"):
        return f"the domain {domain!r} is not ONNX's own"
    if operator in NO_KERNEL:
        return NO_KERNEL[operator]
    try:
        from lepton_torch.catalogue import covered
    except ImportError:  # without the converter; installing it is a matter of its own
        return ""
    return "" if covered(name) else "it has no translation to torch"


__all__ = ["ATEN", "NO_KERNEL", "why_not"]
