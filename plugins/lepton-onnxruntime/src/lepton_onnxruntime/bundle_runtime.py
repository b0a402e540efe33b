"""Load a model with ONNX Runtime alone; bundles ship this file as ``runtime.py``.

ONNX Runtime is imported with its telemetry off: from 1.32 on the import itself would start it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

REQUIREMENTS = ("numpy", "onnxruntime")


def load(
    path: str | Path, threads: int | None = None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Open a model.

    Args:
        path: The ``.onnx`` file; external weights lie beside it.
        threads: Intra-op threads; ONNX Runtime's own choice by default.

    Returns:
        A function from named input arrays to named output arrays.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # x86 without VNNI would add products of 8-bit integers in 16 bits, which may saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads

    def start() -> Any:  # noqa: ANN401 - a class of the runtime
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"],  # rounds weights anew, by other scales
        )

    try:
        session = start()
    except Exception:  # where weights share one zero point, 1.32 fails at that; compute in float
        basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.graph_optimization_level = basic
        session = start()
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
