"""A reference interpreter of ML Programs, in NumPy.

It says what a package computes by MIL's definitions of operators
(https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html), with
float32 arithmetic and every result rounded to the type that the program declares. It does not
imitate a device: which unit of an Apple processor runs a layer, in which precision and in which
order it sums, is not known here. One module for each family of operators.
"""

from __future__ import annotations

from lepton_coreml._interpreter import (  # noqa: F401 - they fill the table
    _activation,
    _attention,
    _compressed,
    _elementwise,
    _gather,
    _linear,
    _norm,
    _pool,
    _quantization,
    _recurrent,
    _reduction,
    _resize,
    _shape,
)
from lepton_coreml._interpreter._registry import FAMILIES, OPERATORS
from lepton_coreml._interpreter._run import Interpreter, OperatorError

__all__ = ["FAMILIES", "OPERATORS", "Interpreter", "OperatorError"]
