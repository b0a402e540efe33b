"""Reductions, places of extremes, and sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_coreml._interpreter._registry import Array, operator


def _wide(x: Array) -> Any:  # noqa: ANN401 - a dtype
    return np.float32 if x.dtype.kind == "f" else x.dtype


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    total = np.log(np.exp(x - top).sum(axis=axis, keepdims=True, dtype=np.float32)) + top
    return total if keepdims else np.squeeze(total, axis=axis)


_REDUCTIONS = {
    "reduce_sum": lambda x, **k: x.sum(dtype=_wide(x), **k),
    "reduce_mean": lambda x, **k: x.mean(dtype=np.float32, **k),
    "reduce_max": lambda x, **k: x.max(**k),
    "reduce_min": lambda x, **k: x.min(**k),
    "reduce_prod": lambda x, **k: x.prod(dtype=_wide(x), **k),
    "reduce_l1_norm": lambda x, **k: np.abs(x).sum(dtype=_wide(x), **k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.square(x).sum(dtype=_wide(x), **k)),
    "reduce_sum_square": lambda x, **k: np.square(x).sum(dtype=_wide(x), **k),
    "reduce_log_sum": lambda x, **k: np.log(x.sum(dtype=_wide(x), **k)),
    "reduce_log_sum_exp": _log_sum_exp,
}


def _add(name: str, function: Any) -> None:  # noqa: ANN401 - one of the above
    def reduce(x: Array, axes: Array | None = None, keep_dims: Array = np.False_) -> Array:
        chosen = tuple(range(x.ndim)) if axes is None else tuple(int(a) for a in np.ravel(axes))
        return np.asarray(function(x, axis=chosen, keepdims=bool(keep_dims)))

    operator(name)(reduce)


for _name, _function in _REDUCTIONS.items():
    _add(_name, _function)


@operator("reduce_argmax")
def reduce_argmax(
    x: Array,
    axis: Array = np.int32(-1),
    keep_dims: Array = np.False_,
    output_dtype: str = "int32",
) -> Array:
    """Return the place of the largest value, the first of equals."""
    return np.argmax(x, axis=int(axis), keepdims=bool(keep_dims)).astype(output_dtype)


@operator("reduce_argmin")
def reduce_argmin(
    x: Array,
    axis: Array = np.int32(-1),
    keep_dims: Array = np.False_,
    output_dtype: str = "int32",
) -> Array:
    """Return the place of the smallest value, the first of equals."""
    return np.argmin(x, axis=int(axis), keepdims=bool(keep_dims)).astype(output_dtype)


@operator("topk")
def topk(
    x: Array,
    k: Array = np.int32(1),
    axis: Array = np.int32(-1),
    ascending: Array = np.False_,
    sort: Array = np.True_,
    return_indices: Array = np.True_,
    output_indices_dtype: str = "int32",
) -> Any:  # noqa: ANN401 - one array or two
    """Return the k largest (or smallest) values along an axis and their places."""
    del sort  # sorted is one of the orders that unsorted allows
    order = argsort(x, axis, ascending)
    chosen = np.take(order, np.arange(int(k)), axis=int(axis))
    values = np.take_along_axis(x, chosen, axis=int(axis))
    return (values, chosen.astype(output_indices_dtype)) if return_indices else values


@operator("argsort")
def argsort(
    x: Array,
    axis: Array = np.int32(-1),
    ascending: Array = np.False_,
    output_dtype: str = "int32",
) -> Array:
    """Return the order of the values along an axis, equals in the order they stand in."""
    if x.dtype.kind in "biu":  # the negative of the smallest integer is not of its own type
        x = x.astype(np.int64)
    keys = x if ascending else -x
    return np.argsort(keys, axis=int(axis), kind="stable").astype(output_dtype)


__all__ = ["argsort"]
