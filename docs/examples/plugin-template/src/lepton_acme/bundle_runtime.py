"""Load a model with the runtime alone; bundles ship this file as ``runtime.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

REQUIREMENTS = ("numpy", "onnx")


def load(
    path: str | Path, threads: int | None = None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Open a model; returns a function from named input arrays to named output arrays."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    del threads  # this runtime has one
    evaluator = ReferenceEvaluator(onnx.load(path))

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        values = evaluator.run(None, dict(inputs))
        return dict(zip(evaluator.output_names, values, strict=True))

    return run
