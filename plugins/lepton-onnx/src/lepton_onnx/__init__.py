"""The pivot as a library: frozen fp32 ONNX graphs, read, checked, named, written.

Depends on ``onnx`` alone; importing this package imports nothing. Public modules:
:mod:`lepton_onnx.pivot` (load, check, freeze, save), :mod:`lepton_onnx.names`,
:mod:`lepton_onnx.external`, :mod:`lepton_onnx.float16`, :mod:`lepton_onnx.operators`, and the
functions :func:`signature`, :func:`freeze` and :func:`load` of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lepton_onnx._freeze import FreezeFacts, freeze
    from lepton_onnx._load import load
    from lepton_onnx._signature import signature

_LAZY = {
    "FreezeFacts": "lepton_onnx._freeze",
    "freeze": "lepton_onnx._freeze",
    "load": "lepton_onnx._load",
    "signature": "lepton_onnx._signature",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


__all__ = ["FreezeFacts", "__version__", "freeze", "load", "signature"]
