"""Translations of ONNX operators, a file per family; importing this fills the table."""

from __future__ import annotations

from lepton_torch._bridge.operators import (  # noqa: F401 - each registers its functions
    _activation,
    _attention,
    _elementwise,
    _indexing,
    _linear,
    _logic,
    _norm,
    _pool,
    _quantization,
    _recurrent,
    _reduction,
    _resize,
    _shape,
)
