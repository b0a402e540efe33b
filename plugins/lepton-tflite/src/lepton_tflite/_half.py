"""Weights stored as float16, and computed with as float32."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_tflite import _flatbuffer as flat
from lepton_tflite._schema import schema

_LARGEST = float(np.finfo(np.float16).max)
LIMIT = 2e-2
"""Largest relative L2 difference between such a file and the float32 module."""


@dataclass(frozen=True)
class Half:
    """What float16 cannot hold of a model's constants.

    Attributes:
        kept: Names of constants that stay float32 because of their range.
        zeroed: How many values other than 0 became 0, by name of the constant.
    """

    kept: list[str] = field(default_factory=list)
    zeroed: dict[str, int] = field(default_factory=dict)


def store_half(model: Any) -> Half:  # noqa: ANN401 - a generated class
    """Store float32 constants as float16, with a DEQUANTIZE that the runtime folds when it loads.

    Single numbers, and constants that hold a value beyond float16's range, stay float32.

    Args:
        model: ``ModelT``; it is changed.

    Returns:
        What was not stored as it was.
    """
    found = Half()
    for graph in model.subgraphs:
        added = []
        for index in range(len(graph.tensors)):
            tensor = graph.tensors[index]
            values = flat.array_of(model, tensor)
            if values is None or values.dtype != np.float32 or values.size < 2:
                continue
            if index in graph.outputs:
                continue
            if bool((np.abs(values[np.isfinite(values)]) > _LARGEST).any()):
                found.kept.append(flat.text(tensor.name))
                continue
            name, small = flat.text(tensor.name), values.astype(np.float16)
            if lost := int(np.count_nonzero((small == 0) & (values != 0))):
                found.zeroed[name] = lost
            half = flat.add_tensor(graph, f"{name}/float16", "float16", values.shape)
            flat.set_array(model, graph.tensors[half], small)
            tensor.buffer = 0
            code = flat.operator_code(model, schema.BuiltinOperator.DEQUANTIZE, 3)
            added.append(flat.make_operator(code, [half], [index]))
        graph.operators = [*added, *graph.operators]
    return found


__all__ = ["LIMIT", "Half", "store_half"]
