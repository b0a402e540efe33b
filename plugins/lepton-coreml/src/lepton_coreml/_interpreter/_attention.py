"""Attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._activation import softmax
from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None = None
) -> Array:
    """Return softmax(query keyᵀ / sqrt(width) + mask) value; a mask of booleans hides places."""
    scores = np.matmul(query, np.swapaxes(key, -1, -2)) / np.float32(np.sqrt(query.shape[-1]))
    if attn_mask is not None:
        if attn_mask.dtype == np.bool_:
            scores = np.where(attn_mask, scores, np.float32(-np.inf))
        else:
            scores = scores + attn_mask
    return np.matmul(softmax(scores), value)


__all__ = ["scaled_dot_product_attention"]
