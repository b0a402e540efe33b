"""Which weights float16 cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float16).max)


def out_of_range(model: Any) -> dict[str, int]:  # noqa: ANN401 - a class of the runtime
    """Return how many values of each float32 or float64 constant are beyond float16's range.

    Infinities count as representable; NaN does as well.

    Args:
        model: OpenVINO's model, before it is saved as float16.
    """
    lost = {}
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() not in (
            "f32",
            "f64",
        ):
            continue
        values = node.data
        count = int(np.count_nonzero((np.abs(values) > _LARGEST) & np.isfinite(values)))
        if count:
            lost[node.get_friendly_name()] = count
    return lost


__all__ = ["out_of_range"]
