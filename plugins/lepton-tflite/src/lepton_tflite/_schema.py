"""The generated classes of the file format, which come with the runtime's package."""

from __future__ import annotations

from lepton_tflite._runtime import missing

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing(error) from error

__all__ = ["schema"]
