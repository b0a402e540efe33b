"""Float16 files that the installed ONNX Runtime really opens.

ONNX Runtime 1.32 dies by a segmentation fault while it opens some float16 graphs with its default
optimizations: its fusion of transpositions into matrix products leaves a float16 node that its
layout transformer cannot handle. A file that only opens with that fusion off would kill the
programs it is shipped to, so a file is first opened in a process of its own, with default options,
and where that process dies the transpositions are stored in fp32.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from lepton_core.errors import ConversionError
from lepton_onnx import float16, pivot
from lepton_onnxruntime._runtime import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from onnx import ModelProto

_OPEN = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""
_SECONDS = 600


def write_half(
    proto: ModelProto, out: Path, keep: Iterable[str]
) -> tuple[ModelProto, dict[str, Any], tuple[str, ...]]:
    """Convert to float16 and write a file that opens with default options.

    Args:
        proto: The pivot with its weights in memory.
        out: Where to write.
        keep: Values, nodes or operators that stay in fp32.

    Returns:
        The model as written, facts for the record, and warnings.

    Raises:
        ConversionError: LPT-CONV-214, ONNX Runtime dies on every form of it.
    """
    keep = tuple(keep)
    transposes = tuple(n.name for n in proto.graph.node if n.op_type == "Transpose")
    signals = []
    for more, note in (((), None), (transposes, _note())):
        result = float16.convert(proto, keep=(*keep, *more))
        pivot.save(result.model, out)
        signal = _dies_of(out)
        if signal is None:
            facts: dict[str, Any] = {"kept_in_fp32": dict(result.kept), "casts": result.casts}
            if note is not None:
                facts["workaround"] = note
            return result.model, facts, result.warnings
        signals.append(signal)
    raise ConversionError(
        "LPT-CONV-214",
        f"ONNX Runtime {onnxruntime().__version__} dies when it opens this model as float16",
        cause=f"Its process ended by signal {signals[-1]} with default options.",
        remedy="Build fp32, or another version of onnxruntime; the option keep=... keeps chosen "
        "operators in fp32.",
    )


def _note() -> str:
    return (
        f"transpositions are stored in fp32, because ONNX Runtime {onnxruntime().__version__} "
        "dies when it fuses them in float16"
    )


def _dies_of(path: Path) -> int | None:
    """Open a file in a process of its own; return the signal that ended it, if one did.

    An ordinary refusal is not judged here: loading once says why.
    """
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path)],
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )
    crashed = done.returncode < 0 or done.returncode >= 0x80000000  # Windows: an NTSTATUS
    return abs(done.returncode) if crashed else None


__all__ = ["write_half"]
