"""The generated classes of the file format, which come with the runtime's package.

tflite-runtime has none; beside it the package ``tflite`` has those that reading needs. It cannot
write files, which nothing does that only runs them.
"""

from __future__ import annotations

from lepton_tflite._runtime import missing

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    try:
        import tflite as schema
    except ImportError:
        raise missing(error) from error

__all__ = ["schema"]
