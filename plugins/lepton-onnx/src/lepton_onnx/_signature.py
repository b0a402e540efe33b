"""Signature of an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.types import Signature
from lepton_onnx._load import read
from lepton_onnx._protobuf import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto


def signature(model: ModelProto | str | Path) -> Signature:
    """Return the named inputs and outputs of a model, in the graph's order.

    Initializers that are also listed as inputs (IR version 3 and older) are weights, not inputs.
    A value of unknown rank has the shape ``(None,)``.

    Args:
        model: A model or the path of one; external data is not read.

    Raises:
        SourceError: The file cannot be read as ONNX.
    """
    graph = read(model).graph
    weights = {t.name for t in graph.initializer}
    weights |= {s.values.name for s in graph.sparse_initializer}
    return Signature(
        inputs=tuple(spec_of(v) for v in graph.input if v.name not in weights),
        outputs=tuple(spec_of(v) for v in graph.output),
    )
