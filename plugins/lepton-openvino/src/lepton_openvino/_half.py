"""Which weights float16 cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_KEPT_FROM = 0.75


def out_of_range(model: Any) -> dict[str, int]:  # noqa: ANN401 - a class of the runtime
    """Return how many values of each float32 or float64 constant float16's range cuts off.

    Infinities count as representable; NaN does as well. OpenVINO leaves a constant as it is of
    which three quarters or more lie outside of that range, too small ones counted as well.

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
        tiny = int(np.count_nonzero((values != 0) & (np.abs(values) < _SMALLEST)))
        if count and count + tiny < _KEPT_FROM * values.size:
            lost[node.get_friendly_name()] = count
    return lost


__all__ = ["out_of_range"]
