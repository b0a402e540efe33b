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
    "TopK": "litert-torch writes it as a sort, for which the runtime has no kernel",
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
    "Xor": "litert-torch fails when it writes the file",
}
"""Why, by operator, for those that the bridge translates."""


def why_not(name: str) -> str:
    """Return why an operator cannot be run, or an empty text.

    Args:
        name: Qualified name (``"ai.onnx::Conv"``).
    """
    domain, _, operator = name.rpartition("::")
    if domain not in ("", "ai.onnx"):
        return f"the domain {domain!r} is not ONNX's own"
    if operator in NO_KERNEL:
        return NO_KERNEL[operator]
    try:
        from lepton_torch._bridge.catalogue import covered
    except ImportError:  # without the converter; installing it is a matter of its own
        return ""
    return "" if covered(name) else "it has no translation to torch"


__all__ = ["NO_KERNEL", "why_not"]
